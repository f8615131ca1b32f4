"""Attention with a mask of -inf: it masks after quantization as it did before."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from quantexp.config import Flow, Observer, Qat, Static
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.fx import _has_range
from quantexp.quant.flows.working import working
from quantexp.statistics.sqnr import sqnr_db

LENGTH, WIDTH = 6, 8


class Causal(nn.Module):
    """Attention of one head to the tokens before, which adds a mask to its scores."""

    def __init__(self, masked: float = -math.inf) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.register_buffer("mask", torch.full((LENGTH, LENGTH), masked).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.matmul(self.query(x), self.key(x).transpose(1, 2)) / math.sqrt(WIDTH)
        attended: Tensor = torch.matmul((scores + self.mask).softmax(-1), self.value(x))
        return attended


def causal(masked: float = -math.inf) -> Causal:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Causal(masked)


def converted(option: Static | Qat, network: nn.Module, batch: Tensor) -> nn.Module:
    flow = flow_of(option)
    prepare = flow.prepare_qat if isinstance(option, Qat) else flow.prepare_static
    with working(option.engine):
        prepared = prepare(option, copy.deepcopy(network), (batch,), "kernels")
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
def test_what_is_masked_does_not_count_after_quantization(option: Static | Qat) -> None:
    assert_masks(option, causal())


@pytest.mark.parametrize("masked", [-1e4, -1e9, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("option", [Static(flow=Flow.fx), Qat(flow=Flow.fx)], ids=["static", "qat"])
def test_a_mask_of_a_large_number_masks_too(option: Static | Qat, masked: float) -> None:
    assert_masks(option, causal(masked))


def assert_masks(option: Static | Qat, network: Causal) -> None:
    """Assert that the quantized network computes what the float network does, whatever the masked tokens are."""
    drawn = torch.Generator().manual_seed(1)
    batch = torch.randn(32, LENGTH, WIDTH, generator=drawn)
    made = converted(option, network, batch)
    later = batch.clone()
    later[:, 3:] = torch.randn(32, LENGTH - 3, WIDTH, generator=drawn)
    with torch.no_grad():
        result, other = made(batch), made(later)
        decibels = sqnr_db(network(batch), result)
    assert decibels is not None
    assert decibels > 25
    assert torch.equal(result[:, :3], other[:, :3]), "tokens that are masked change what attends to the ones before"


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ([0.0, 1.0, 0.5], True),
        ([-3e4, -1e3, 2e4, 3e4], True),  # a waveform in integers
        ([-math.inf, 0.0], False),
        ([math.nan, 0.0], False),
        ([-1e9, 0.0, 3.0], False),
        ([-1e9, -1e9], False),
        ([1e9, 3.0, 0.0], True),
    ],
)
def test_a_range_is_missing_where_a_mask_leaves_one_step_to_the_rest(values: list[float], fits: bool) -> None:
    assert _has_range(torch.tensor(values)) is fits
    assert not _has_range(torch.tensor([1, 2]))
