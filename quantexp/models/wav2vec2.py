"""Wav2Vec 2.0 of the package transformers, with a head for classification, built from sizes.

Baevski et al. 2020, wav2vec 2.0: A framework for self-supervised learning of speech representations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from quantexp.config import Kind, Wav2Vec2
from quantexp.models.transformers import quiet, returning_logits
from quantexp.results import InputSpec
from quantexp.system.errors import ConfigError

CONVOLUTIONS = 7
SHORTEST = 400  # samples of the first step: the convolutions see no fewer


def build(model: Wav2Vec2, inputs: Sequence[InputSpec], classes: int) -> nn.Module:
    """Build the network with fresh weights. Raises ConfigError if its sizes do not fit together."""
    if (samples := inputs[0].measured[-1]) < SHORTEST:
        raise ConfigError(
            f"model=wav2vec2 takes at least {SHORTEST} samples of sound, got {samples}; raise task.seconds or task.rate"
        )
    with quiet(f"model={model.name} must have sizes that fit together"):
        import transformers

        configuration: Any = transformers.Wav2Vec2Config(
            conv_dim=(model.channels,) * CONVOLUTIONS,
            hidden_size=model.hidden,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            intermediate_size=model.feed_forward,
            classifier_proj_size=min(256, model.hidden),
            apply_spec_augment=False,  # it draws from another generator, and needs long sounds
            layerdrop=0.0,
        )
        configuration.num_labels = classes
        network = transformers.Wav2Vec2ForSequenceClassification(configuration)
    return returning_logits(network, Kind.waveform)
