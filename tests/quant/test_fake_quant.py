from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.ao.quantization import FakeQuantize, MovingAveragePerChannelMinMaxObserver, disable_observer

from quantexp.quant.flows.fake_quant import WeightFakeQuantize, weight_fake_quant

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*_aminmax is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max:UserWarning"),
]

SHAPES = {"2-d": (40, 30), "4-d": (12, 6, 3, 3)}


def of_torch() -> FakeQuantize:
    """What torch.ao does with the same observer."""
    return FakeQuantize(
        observer=MovingAveragePerChannelMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        averaging_constant=1.0,
    )


def drawn(shape: tuple[int, ...], seed: int, spread: float = 1.0) -> Tensor:
    """Weights whose channels differ in size by up to a thousand."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-2, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return spread * sizes * torch.randn(shape, generator=generator)


def passed(fake_quant: FakeQuantize, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return what comes out, and the gradient of the weight."""
    leaf = weight.clone().requires_grad_()
    out = fake_quant(leaf)
    out.backward(gradient)
    assert leaf.grad is not None
    return out.detach(), leaf.grad


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_values_and_gradients_are_those_of_torch_while_it_observes(shape: tuple[int, ...]) -> None:
    ours, theirs = weight_fake_quant(), of_torch()
    for seed in range(3):  # weights move, and ranges with them
        weight, gradient = drawn(shape, seed), drawn(shape, seed + 100)
        (value, slope), (expected, expected_slope) = (passed(one, weight, gradient) for one in (ours, theirs))
        assert torch.equal(value, expected)
        assert torch.equal(slope, expected_slope)
        assert torch.equal(ours.scale, theirs.scale)
        assert torch.equal(ours.zero_point, theirs.zero_point)
    assert ours.scale.shape == (shape[0],)
    assert not ours.zero_point.any(), "symmetric"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_values_and_gradients_are_those_of_torch_when_ranges_are_frozen_and_weights_leave_them(
    shape: tuple[int, ...],
) -> None:
    ours, theirs = weight_fake_quant(), of_torch()
    for one in (ours, theirs):
        passed(one, drawn(shape, 0), drawn(shape, 1))
        one.apply(disable_observer)
    weight, gradient = drawn(shape, 2, spread=2.0), drawn(shape, 3)
    (value, slope), (expected, expected_slope) = (passed(one, weight, gradient) for one in (ours, theirs))
    assert torch.equal(value, expected)
    assert torch.equal(slope, expected_slope)
    outside = slope == 0
    assert outside.any(), "twice the weights leave the range"
    assert torch.equal(slope[~outside], gradient[~outside]), "inside, the gradient passes straight through"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_frozen_ranges_stay_as_they_are(shape: tuple[int, ...]) -> None:
    fake_quant = weight_fake_quant()
    fake_quant(drawn(shape, 0))
    before = {name: value.clone() for name, value in fake_quant.state_dict().items() if name != "observer_enabled"}
    fake_quant.apply(disable_observer)
    fake_quant(drawn(shape, 1, spread=10.0))
    after = fake_quant.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_range_follows_the_weights_with_no_lag() -> None:
    fake_quant = weight_fake_quant()
    fake_quant(drawn(SHAPES["2-d"], 0, spread=100.0))
    weight = drawn(SHAPES["2-d"], 1)
    fake_quant(weight)
    # 256 steps, symmetric around zero, span twice the largest size in the channel.
    torch.testing.assert_close(fake_quant.scale, weight.abs().amax(1) / 127.5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_inside_the_range_a_weight_moves_by_at_most_half_a_step(shape: tuple[int, ...]) -> None:
    fake_quant, weight = weight_fake_quant(), drawn(shape, 0)
    fake = fake_quant(weight)
    scale = fake_quant.scale.view(-1, *[1] * (len(shape) - 1))
    assert ((fake - weight).abs() / scale).max() <= 0.5 + 1e-4  # float32 divides 128 steps to about 1e-5
    assert (fake / scale).abs().flatten(1).amax(1).min() > 126.9, "in each channel the range is used to its end"


def test_outside_the_range_a_weight_becomes_its_nearest_end() -> None:
    fake_quant = weight_fake_quant()
    fake_quant(torch.tensor([[-127.5, 127.5]]))
    assert fake_quant.scale.item() == 1.0
    fake_quant.apply(disable_observer)
    weight = torch.tensor([[-1000.0, -128.0, -0.4, 0.6, 127.0, 1000.0]], requires_grad=True)
    fake = fake_quant(weight)
    assert fake.tolist() == [[-128.0, -128.0, 0.0, 1.0, 127.0, 127.0]]
    fake.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 1.0, 1.0, 1.0, 1.0, 0.0]]


def test_the_weight_itself_is_not_written_to() -> None:
    weight = drawn(SHAPES["2-d"], 0)
    before = weight.clone()
    weight_fake_quant()(weight)
    assert torch.equal(weight, before)


def test_switched_off_it_passes_weights_through() -> None:
    fake_quant, weight = weight_fake_quant(), drawn(SHAPES["2-d"], 0)
    assert isinstance(fake_quant, WeightFakeQuantize)
    fake_quant.disable_fake_quant()
    assert torch.equal(fake_quant(weight), weight)
