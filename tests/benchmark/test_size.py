from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from quantexp.benchmark.size import state_bytes
from quantexp.config import METHODS, Quant
from quantexp.models.mlp import MLP

PAIRS = [(method, precision) for method in METHODS for precision in method.precisions]


def of_pair(value: object) -> str:
    return value.name if isinstance(value, type) and issubclass(value, Quant) else str(value)


def network(hidden: int = 16) -> nn.Module:
    return MLP(30, [hidden], 2).eval()


@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_the_size_is_that_of_the_file_that_torch_writes(tmp_path: Path, method: type[Quant], precision: str) -> None:
    model = method().skeleton(network(), precision, torch.linspace(-1.0, 1.0, 60).view(2, 30))
    path = tmp_path / "archive.pt"  # torch writes the name of the file into it, and "archive" where there is none
    torch.save(model.state_dict(), path)
    assert state_bytes(model) == path.stat().st_size


def test_the_size_grows_by_the_bytes_of_the_weights() -> None:
    small, large = 100, 10_100
    weights = (30 + 1 + 2) * (large - small)  # a hidden unit has 30 weights in, a bias, and 2 weights out
    grown = state_bytes(network(large)) - state_bytes(network(small))
    assert grown == pytest.approx(4 * weights, abs=1024)  # each tensor is aligned to 64 bytes


def test_taking_the_size_leaves_the_model_as_it_was() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    assert state_bytes(model) == state_bytes(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
