"""How far the outputs of two programs may be apart depends on what the network makes of the rounding of its sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quantexp.quant.inspection.rounding import least_sqnr_db
from quantexp.runtimes.agreement import largest_difference
from quantexp.statistics.sqnr import compared
from quantexp.system.errors import BenchmarkError

WIDTH, EXAMPLES, USUAL_DB = 128, 256, 25.0


def weights(layers: int, gain: float) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(WIDTH, WIDTH, generator=draws) * gain / WIDTH**0.5 for _ in range(layers)]


def inputs() -> Tensor:
    return torch.randn(EXAMPLES, WIDTH, generator=torch.Generator().manual_seed(1))


def outputs(layers: list[Tensor], x: Tensor, *, reordered: bool = False) -> Tensor:
    """Return the outputs of layers with 8-bit activations; `reordered` adds the products in another order."""
    order = torch.arange(WIDTH).flip(0) if reordered else torch.arange(WIDTH)
    for weight in layers:
        x = torch.tanh(x[:, order] @ weight[order])
        x = torch.fake_quantize_per_tensor_affine(x, 1 / 127, 0, -127, 127)
    return x


def test_a_network_that_does_not_amplify_rounding_keeps_the_usual_bound() -> None:
    layers, x = weights(2, gain=0.5), inputs()
    expected = outputs(layers, x)
    assert least_sqnr_db(USUAL_DB, 10.0, expected, lambda: outputs(layers, x)) == USUAL_DB


def test_what_agrees_is_not_computed_again() -> None:
    def fails() -> Tensor:
        raise AssertionError

    assert least_sqnr_db(USUAL_DB, 26.0, inputs(), fails) == USUAL_DB


def test_a_deep_network_that_amplifies_rounding_may_differ_by_as_much_and_no_more() -> None:
    layers, x = weights(40, gain=2.0), inputs()
    expected, other = outputs(layers, x), outputs(layers, x, reordered=True)
    assert compared(expected, other)[1] < USUAL_DB  # one step of a sum that rounds the other way has grown
    difference = largest_difference("it", lambda: outputs(layers, x), expected, other, ["int8"], "use another")
    assert difference == compared(expected, other)[0]
    layers[20] = 2 * layers[20]  # as if its scale was doubled
    wrong = outputs(layers, x)
    layers[20] = layers[20] / 2
    with pytest.raises(BenchmarkError, match=r"the outputs of it must equal .* they have .* use another$"):
        largest_difference("it", lambda: outputs(layers, x), expected, wrong, ["int8"], "use another")


def test_outputs_that_have_nothing_in_common_are_refused_whatever_the_network_does() -> None:
    expected = inputs()
    assert least_sqnr_db(USUAL_DB, -1.0, expected, lambda: -expected) == 0.0
