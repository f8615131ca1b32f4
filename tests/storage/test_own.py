"""A network of two inputs for a task of the user's own: stored, and built again where it is trusted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.config import (
    Amp,
    CustomModel,
    CustomTask,
    Dynamic,
    Experiment,
    FakeQuant,
    Flow,
    NoQuant,
    Qat,
    Quant,
    Static,
    Train,
    WeightOnly,
)
from quantexp.mission import input_kind
from quantexp.mission import load as load_data
from quantexp.results import InputSpec
from quantexp.storage.recipe import Recipe, read
from quantexp.storage.stored import load, save
from quantexp.system.errors import ModelError
from quantexp.tasks.inputs import Batch
from tests.runs import quantized

WORDS = """
import torch
from torch import nn

class Words:
    gives = "tokens"

    def train(self):
        drawn = torch.Generator().manual_seed(1)
        ids = torch.randint(0, 50, (600, 12), generator=drawn)
        mask = (torch.arange(12) < torch.randint(3, 13, (600, 1), generator=drawn)).long()
        return (ids, mask), (((ids < 25) * mask).sum(1) * 2 > mask.sum(1)).long()

    test = train

class Mean(nn.Module):
    takes = "tokens"

    def __init__(self, inputs, classes, width=32):
        super().__init__()
        self.embedding = nn.Embedding(int(inputs[0].high) + 1, width)
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, classes)

    def forward(self, ids, mask):
        weights = mask.unsqueeze(-1).to(self.embedding.weight.dtype)
        mean = (self.embedding(ids) * weights).sum(1) / weights.sum(1)
        return self.last(torch.relu(self.first(mean)))

class Different(Mean):
    def __init__(self, inputs, classes, width=1024):
        super().__init__(inputs, classes, width)
        self.second = nn.Linear(width, width)
        if torch.equal(self.first.weight, self.second.weight):
            raise ValueError("two layers must begin with different weights")

    def forward(self, ids, mask):
        return super().forward(ids, mask) + self.second(self.embedding(ids)).mean((1, 2)).unsqueeze(1)
"""


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Path, nn.Module, Batch]]]:
    """Quantize the network of tokens and save it; the folder, the network, and a batch of test inputs."""
    (tmp_path / "own_words.py").write_text(WORDS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def build(quant: Quant, precision: str | None = None, network: str = "Mean", width: int = 32) -> Any:
        experiment = Experiment(
            task=CustomTask(target="own_words.Words"),
            model=CustomModel(target=f"own_words.{network}", arguments={"width": width}),
            quant=quant,
            precision=precision,
            train=Train(epochs=1, threads=1),
            cache_dir=str(tmp_path / "cache"),
        )
        data = load_data(experiment)
        model = quantized(experiment, data).model
        save(tmp_path / "model", model, Recipe.of(experiment, data, input_kind(experiment)))
        return tmp_path / "model", model, data.test.first(64)

    yield build
    sys.modules.pop("own_words", None)


@torch.no_grad()
def predicted(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(*batch)
    return logits


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("quant", "precision"),
    [
        (NoQuant(), "fp32"),
        (NoQuant(), "bf16"),
        (Dynamic(), "int8"),
        (Static(), "int8"),
        (Static(flow=Flow.pt2e), "int8"),
        (Qat(), "int8"),
        (WeightOnly(), "int8"),
        (Amp(), "bf16"),
        (FakeQuant(), "simulated"),
    ],
    ids=["none", "bf16", "dynamic", "static", "static in pt2e", "qat", "weight_only", "amp", "fake_quant"],
)
def test_a_network_of_token_ids_and_a_mask_is_loaded_and_predicts_the_same_bit_for_bit(
    saved: Callable[..., tuple[Path, nn.Module, Batch]], quant: Quant, precision: str
) -> None:
    folder, model, batch = saved(quant, precision)
    assert [tensor.dtype for tensor in batch] == [torch.int64, torch.int64]
    again = load(folder, trust=True)
    for size in (64, 1):
        part = tuple(tensor[:size] for tensor in batch)
        assert torch.equal(predicted(again, part), predicted(model, part))


@pytest.mark.slow
def test_a_network_whose_weights_must_differ_from_the_start_is_rebuilt_without_shared_memory(
    saved: Callable[..., tuple[Path, nn.Module, Batch]],
) -> None:
    folder, model, batch = saved(Dynamic(), network="Different", width=1024)
    assert torch.equal(predicted(load(folder, trust=True), batch), predicted(model, batch))


def test_its_recipe_tells_what_it_takes(saved: Callable[..., tuple[Path, nn.Module, Batch]]) -> None:
    recipe = read(saved(NoQuant())[0])
    assert recipe.inputs == (InputSpec("input0", (12,), "int64", 0, 49), InputSpec("input1", (12,), "int64", 0, 1))
    assert recipe.kind == "tokens"
    assert recipe.task["target"] == "own_words.Words"
    assert recipe.model == {"name": "custom", "target": "own_words.Mean", "arguments": {"width": 32}}


def test_without_trust_its_code_does_not_run(saved: Callable[..., tuple[Path, nn.Module, Batch]]) -> None:
    folder, _, _ = saved(NoQuant())
    sys.modules.pop("own_words")
    with pytest.raises(ModelError, match=r"uses 'own_words\.Mean', whose code would be executed; .* trust=True"):
        load(folder)
    assert "own_words" not in sys.modules
