"""BERT and DistilBERT of the package transformers, with a head for classification, built from sizes.

Devlin et al. 2019, BERT: Pre-training of deep bidirectional transformers; Sanh et al. 2019, DistilBERT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from quantexp.config import Bert, Family, Kind
from quantexp.models.lstm import tokens_of
from quantexp.models.transformers import quiet, returning_logits
from quantexp.results import InputSpec

POSITIONS = 512  # positions that are embedded at least, as in the papers


def build(model: Bert, inputs: Sequence[InputSpec], classes: int) -> nn.Module:
    """Build the network with fresh weights. Raises ConfigError if its sizes do not fit together."""
    with quiet(f"model={model.name} must have sizes that fit together"):
        import transformers

        positions = max(POSITIONS, inputs[0].measured[-1])
        shared: dict[str, Any] = {
            "vocab_size": tokens_of(inputs),
            "max_position_embeddings": positions,
            "num_labels": classes,
        }
        if model.family is Family.distilbert:
            configuration: Any = transformers.DistilBertConfig(
                **shared,
                dim=model.hidden,
                n_layers=model.layers,
                n_heads=model.heads,
                hidden_dim=model.feed_forward,
                dropout=model.dropout,
                attention_dropout=model.dropout,
                seq_classif_dropout=model.dropout,
            )
            network: nn.Module = transformers.DistilBertForSequenceClassification(configuration)
        else:
            configuration = transformers.BertConfig(
                **shared,
                hidden_size=model.hidden,
                num_hidden_layers=model.layers,
                num_attention_heads=model.heads,
                intermediate_size=model.feed_forward,
                hidden_dropout_prob=model.dropout,
                attention_probs_dropout_prob=model.dropout,
            )
            network = transformers.BertForSequenceClassification(configuration)
    return returning_logits(network, Kind.tokens)
