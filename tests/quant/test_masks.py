"""Attention with a mask of -inf: it masks after quantization as it did before."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from quantexp.config import Flow, Observer, Qat, Static
from quantexp.quant.flows import flow_of
from quantexp.statistics.sqnr import sqnr_db

LENGTH, WIDTH = 6, 8


class Causal(nn.Module):
    """Attention of one head to the tokens before, which adds a mask of -inf to its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.register_buffer("mask", torch.full((LENGTH, LENGTH), -math.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.matmul(self.query(x), self.key(x).transpose(1, 2)) / math.sqrt(WIDTH)
        attended: Tensor = torch.matmul((scores + self.mask).softmax(-1), self.value(x))
        return attended


@pytest.fixture
def causal() -> Causal:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Causal()


def converted(option: Static | Qat, network: nn.Module, batch: Tensor) -> nn.Module:
    flow = flow_of(option)
    prepare = flow.prepare_qat if isinstance(option, Qat) else flow.prepare_static
    prepared = prepare(option, copy.deepcopy(network), (batch,))
    flow.calibrate(prepared, [(batch,)])
    made: nn.Module = flow.convert(prepared, "kernels")
    return made


@pytest.mark.parametrize(
    "option",
    [
        *(Static(flow=Flow.fx, observer=observer) for observer in Observer),
        Static(flow=Flow.pt2e),
        Qat(flow=Flow.fx),
        Qat(flow=Flow.pt2e),
    ],
    ids=lambda option: f"{option.name} {option.flow} {getattr(option, 'observer', '')}",
)
def test_what_is_masked_does_not_count_after_quantization(causal: Causal, option: Static | Qat) -> None:
    drawn = torch.Generator().manual_seed(1)
    batch = torch.randn(32, LENGTH, WIDTH, generator=drawn)
    network = converted(option, causal, batch)
    later = batch.clone()
    later[:, 3:] = torch.randn(32, LENGTH - 3, WIDTH, generator=drawn)
    with torch.no_grad():
        result, other = network(batch), network(later)
        assert sqnr_db(causal(batch), result) > 25
    assert torch.equal(result[:, :3], other[:, :3]), "tokens that are masked change what attends to the ones before"
