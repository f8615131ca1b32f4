"""The recurrent network: what it computes, on which inputs, and what is quantized of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.config import Dynamic, Experiment, Flow, Lstm, Predicts, Quant, Sst2, Static
from quantexp.mission import attempt
from quantexp.models.lstm import LSTM, build
from quantexp.results import InputSpec
from quantexp.system.errors import ConfigError

WORDS, LENGTH = 20, 6
TOKENS = (InputSpec("ids", (LENGTH,), "int64", 0, WORDS - 1), InputSpec("mask", (LENGTH,), "int64", 0, 1))
SEQUENCE = (InputSpec("steps", (LENGTH, 3)),)
SMALL = {"embedding": 4, "hidden": 5}


@torch.no_grad()
def given(network: nn.Module, *batch: Tensor) -> Tensor:
    logits: Tensor = network.eval()(*batch)
    return logits


def sentences(*lengths: int) -> tuple[Tensor, Tensor]:
    ids = torch.arange(len(lengths) * LENGTH).view(-1, LENGTH) % WORDS
    return ids, (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).long()


def test_what_lies_behind_the_mask_changes_nothing() -> None:
    network = build(Lstm(**SMALL), TOKENS, 2)
    ids, mask = sentences(3, 6)
    padded = torch.where(mask.bool(), ids, 0)
    torch.testing.assert_close(given(network, ids, mask), given(network, padded, mask))


def test_a_sentence_without_words_gives_the_bias() -> None:
    network = build(Lstm(**SMALL), TOKENS, 2)
    ids, mask = sentences(0)
    torch.testing.assert_close(given(network, ids, mask)[0], network.output.bias.detach())


def test_a_shorter_padding_gives_the_same() -> None:
    network = build(Lstm(layers=2, **SMALL), TOKENS, 2)
    ids, mask = sentences(3, 2)
    torch.testing.assert_close(given(network, ids[:, :3], mask[:, :3]), given(network, ids, mask))


def test_a_sequence_of_features_needs_no_embedding() -> None:
    network = build(Lstm(**SMALL), SEQUENCE, 4)
    assert [name for name, _ in network.named_children()] == ["lstm", "output"]
    values = torch.randn(7, LENGTH, 3)
    states, _ = network.lstm(values)
    torch.testing.assert_close(given(network, values), network.output(states.mean(1)).detach())


def test_a_language_model_gives_logits_of_the_next_token_after_each_token() -> None:
    network = build(Lstm(predicts=Predicts.token, **SMALL), TOKENS, 2)
    ids, mask = sentences(6, 6, 6)
    logits = given(network, ids, mask)
    assert logits.shape == (3, WORDS, LENGTH)
    changed = ids.clone()
    changed[:, -1] = 0
    assert torch.equal(given(network, changed, mask)[..., :-1], logits[..., :-1]), "an output knows no later token"


def parameters(network: LSTM) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_its_sizes_are_those_of_the_settings() -> None:
    embedding, hidden, layers = 4, 5, 2
    network = build(Lstm(embedding=embedding, hidden=hidden, layers=layers), TOKENS, 3)
    first, second = (4 * hidden * (width + hidden + 2) for width in (embedding, hidden))
    assert parameters(network) == WORDS * embedding + first + second + 3 * (hidden + 1)


@pytest.fixture
def synthetic() -> Callable[..., Experiment]:
    def made(quant: Quant, **model: Any) -> Experiment:
        task = Sst2(vocabulary=WORDS, length=LENGTH)
        return Experiment(task=task, model=Lstm(**SMALL, **model), quant=quant, data="synthetic", evaluation_examples=8)

    return made


@pytest.mark.parametrize("predicts", Predicts)
def test_dynamic_quantizes_the_lstm_and_the_linear_layer(
    synthetic: Callable[..., Experiment], predicts: Predicts
) -> None:
    found = attempt(synthetic(Dynamic(), predicts=predicts))
    layers = {layer.name: layer.precision for layer in found.evidence.layers}
    assert layers == {"embedding": "fp32", "lstm": "int8", "output": "int8"}
    assert found.evidence.mac_share("int8") == 1


@pytest.mark.slow
@pytest.mark.parametrize("predicts", Predicts)
@pytest.mark.parametrize("quant", [Static(flow=Flow.pt2e), Dynamic(flow=Flow.pt2e)], ids=["static", "dynamic"])
def test_pt2e_quantizes_the_linear_layer_and_keeps_one_copy_of_the_lstm(
    synthetic: Callable[..., Experiment], quant: Quant, predicts: Predicts
) -> None:
    found = attempt(synthetic(quant, predicts=predicts))
    layers = {layer.name: layer.precision for layer in found.evidence.layers}
    assert layers == {"embedding": "fp32", "lstm": "fp32", "output": "int8"}
    assert "aten.mkldnn_rnn_layer" in [operator.name for operator in found.evidence.operators]
    assert found.size.parameters == parameters(build(Lstm(**SMALL, predicts=predicts), sst2_inputs(), 2))


def sst2_inputs() -> tuple[InputSpec, ...]:
    """The words, and those for padding and for unknown words."""
    ids, mask = TOKENS
    return InputSpec("ids", ids.shape, "int64", 0, WORDS + 1), mask


def test_a_language_model_is_not_trained_on_labels_of_sentences() -> None:
    with pytest.raises(ConfigError, match=r"an output for each token.*use data=synthetic, or model"):
        Experiment(task=Sst2(), model=Lstm(predicts=Predicts.token), data="sample")
