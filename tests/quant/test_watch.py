"""Operators that multiply and do not look like a layer are counted too, whichever of them torch chooses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantexp.quant.inspection.watch import Watch
from quantexp.results import Operator

N, LENGTH, WIDTH, HIDDEN = 3, 5, 8, 6


def seen(network: nn.Module, *batch: Tensor, inference: bool = False) -> tuple[Operator, ...]:
    """The operators of a forward pass, their multiply-accumulates for one example."""
    watch = Watch()
    with torch.inference_mode(inference), torch.no_grad(), watch:
        network.eval()(*batch)
    return watch.operators(len(batch[0]))


def macs(operators: tuple[Operator, ...]) -> int:
    return sum(one.macs for one in operators)


class Attends(nn.Module):
    """Attention of each sequence to itself, as one operator or as its two products."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unsqueeze(1)
        if self.fused:
            return F.scaled_dot_product_attention(heads, heads, heads)
        return torch.softmax(heads @ heads.transpose(-1, -2), -1) @ heads


@pytest.mark.parametrize(
    ("network", "gates"), [(nn.LSTM(WIDTH, HIDDEN, batch_first=True), 4), (nn.GRU(WIDTH, HIDDEN, batch_first=True), 3)]
)
def test_the_gates_of_recurrent_layers_multiply_inputs_and_state(network: nn.Module, gates: int) -> None:
    found = seen(network, torch.randn(N, LENGTH, WIDTH))
    assert macs(found) == LENGTH * gates * HIDDEN * (WIDTH + HIDDEN)


def test_both_directions_of_an_lstm_count() -> None:
    found = seen(nn.LSTM(WIDTH, HIDDEN, batch_first=True, bidirectional=True), torch.randn(N, LENGTH, WIDTH))
    assert macs(found) == 2 * LENGTH * 4 * HIDDEN * (WIDTH + HIDDEN)


def test_fused_attention_counts_as_its_two_products() -> None:
    x = torch.randn(N, LENGTH, WIDTH)
    fused, products = seen(Attends(fused=True), x), seen(Attends(fused=False), x)
    assert [one.name for one in fused] == ["aten._scaled_dot_product_flash_attention_for_cpu"]
    assert macs(fused) == macs(products) == 2 * LENGTH * LENGTH * WIDTH


@pytest.mark.parametrize(
    ("network", "behind"),
    [
        (nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, batch_first=True), 2 * WIDTH * HIDDEN),
        (nn.MultiheadAttention(WIDTH, 2, batch_first=True), 0),
    ],
    ids=lambda one: type(one).__name__,
)
def test_an_attention_layer_in_one_operator_counts_as_what_it_is_made_of(network: nn.Module, behind: int) -> None:
    x = torch.randn(N, LENGTH, WIDTH)
    batch = (x, x, x) if isinstance(network, nn.MultiheadAttention) else (x,)
    (whole,) = seen(network, *batch)
    network.train()
    parts = Watch()
    with torch.no_grad(), parts:
        network(*batch)  # training takes the parts
    assert len(parts.calls) > 1
    assert whole.macs == macs(parts.operators(N)) == LENGTH * (4 * WIDTH * WIDTH + 2 * LENGTH * WIDTH + behind)


@pytest.mark.parametrize("groups", [1, 2])
def test_each_value_that_goes_into_a_transposed_convolution_meets_each_weight_of_its_channel(groups: int) -> None:
    network = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=groups)
    (found,) = seen(network, torch.randn(N, 4, 7, 7))
    assert found.macs == 4 * 7 * 7 * (6 // groups) * 3 * 3


class Packed(nn.Module):
    """A transposed convolution with a packed weight, as Inductor calls it."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        plain = nn.ConvTranspose2d(4, 8, 3, groups=groups)
        settings = ([0, 0], [0, 0], [1, 1], [1, 1], groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(plain.weight, *settings, [N, 4, 5, 5])
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        called = torch.ops.mkldnn._convolution_transpose_pointwise
        result: Tensor = called(x, self.weight, None, *self.settings, "none", [None], "")
        return result


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_packed_transposed_convolution_counts_as_one_that_is_not(groups: int) -> None:
    found = seen(Packed(groups), torch.randn(N, 4, 5, 5))
    assert macs(found) == 4 * 5 * 5 * (8 // groups) * 3 * 3


@pytest.mark.parametrize(
    ("network", "shape"),
    [(nn.Linear(WIDTH, HIDDEN), (N, WIDTH)), (nn.Conv2d(2, 3, 3), (N, 2, 6, 6)), (Attends(True), (N, LENGTH, WIDTH))],
)
def test_the_same_is_seen_in_inference_mode_where_operators_arrive_whole(
    network: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(*shape)
    assert seen(network, x, inference=True) == seen(network, x)
