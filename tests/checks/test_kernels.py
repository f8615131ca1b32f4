"""Kernels must compute what they should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic

from quantexp.checks.arithmetic import compare
from quantexp.checks.kernels import WrongKernelsError, check_arithmetic, of_poor_layers, output_sqnr_db
from quantexp.config import Dynamic, Engine, Static
from quantexp.config.levers import Flow
from quantexp.quant.engine import supported_engines
from quantexp.quant.flows.working import working
from tests.networks import made

IMAGES = torch.linspace(-2.0, 2.0, 4 * 3 * 64).view(4, 3, 8, 8).sin()


class Convolutions(nn.Module):
    """Convolutions with stride, padding, groups and dilation, one over time, and products with plain parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6)
        self.time = nn.Conv1d(6, 4, 3)
        self.head = nn.Parameter(torch.linspace(-1, 1, 5 * 8).view(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.deep(torch.relu(self.first(x))))
        return nn.functional.linear(self.time(x.flatten(2)).flatten(1)[:, :8], self.head)


class Up(nn.Module):
    """A transposed convolution, which the engine x86 computes wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(torch.relu(self.up(torch.relu(self.down(x)))), 1)


def test_right_kernels_pass_layer_by_layer_and_functions_too() -> None:
    torch.manual_seed(0)
    quantized = made(Static(), Convolutions().eval(), "int8", IMAGES)
    check_arithmetic(quantized, (IMAGES,), Engine.x86)
    assert compare(quantized, (IMAGES,)).seen == 4


@pytest.mark.parametrize("layer", [nn.LSTM(8, 5, batch_first=True), nn.GRU(8, 5, batch_first=True)])
def test_a_recurrent_layer_is_compared_as_a_whole(layer: nn.Module) -> None:
    with working(Engine.x86):
        quantized = quantize_dynamic(nn.Sequential(layer), {type(layer): default_dynamic_qconfig})
        found = compare(quantized, (IMAGES[:, 0],))
        assert (found.seen, found.wrong) == (1, [])


@pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")
@pytest.mark.parametrize("engine", [Engine(name) for name in supported_engines()])
def test_right_dynamic_kernels_pass_on_every_engine_whatever_range_it_takes(engine: Engine) -> None:
    inputs = IMAGES.flatten(2)[..., :8] - 1  # mostly negative, so that zero_point is beyond 7 bits
    with working(engine):
        quantized = made(Dynamic(engine=engine), nn.Sequential(nn.Linear(8, 16)).eval(), "int8", inputs)
        found = compare(quantized, (inputs,))
    assert (found.seen, found.wrong) == (1, [])


def test_a_kernel_replaced_by_noise_is_named_with_its_layer() -> None:
    quantized = made(Dynamic(), nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), "int8", IMAGES)
    check_arithmetic(quantized, (IMAGES,), Engine.x86)

    def noise(x: Tensor, packed: object, reduce_range: bool = False) -> Tensor:
        weight, _ = packed.unpack()  # type: ignore[attr-defined]
        return torch.randn(*x.shape[:-1], len(weight))

    with torch.library._scoped_library("quantized", "IMPL") as library:
        library.impl("linear_dynamic", noise, "CPU", allow_override=True)
        with pytest.raises(WrongKernelsError, match=r"0: linear_dynamic, SQNR -?[\d.]+ dB; 2: linear_dynamic") as told:
            check_arithmetic(quantized, (IMAGES,), Engine.x86)
    assert told.value.layers == ("0", "2")
    check_arithmetic(quantized, (IMAGES,), Engine.x86)


def test_a_wrong_kernel_of_this_machine_is_an_error_that_names_the_layer() -> None:
    torch.manual_seed(0)
    network = Up().eval()
    for engine in (Engine.x86, Engine.fbgemm):
        if engine.value not in supported_engines():
            pytest.skip(f"this machine lacks the engine {engine.value}")
    right = made(Static(engine=Engine.fbgemm), network, "int8", IMAGES)
    check_arithmetic(right, (IMAGES,), Engine.fbgemm)
    x86 = made(Static(engine=Engine.x86), network, "int8", IMAGES)
    if output_sqnr_db(network, x86, (IMAGES,)) > 20:
        pytest.skip("the kernel of the engine x86 is right on this machine")
    with pytest.raises(WrongKernelsError, match="up: conv_transpose2d") as told:
        check_arithmetic(x86, (IMAGES,), Engine.x86)
    assert told.value.layers == ("up",)


def test_a_lowered_graph_is_compared_with_the_graph_before() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    lowered = made(Static(flow=Flow.pt2e), network, "int8", IMAGES[:, 0, 0])
    check_arithmetic(lowered, (IMAGES[:, 0, 0],), None)
    before = lowered.unlowered()
    assert isinstance(before, nn.Module)
    lowered._unlowered = [nn.Sequential(nn.Linear(8, 4))]  # type: ignore[assignment]
    with pytest.raises(WrongKernelsError, match="must compute what the graph with quantize and dequantize does"):
        check_arithmetic(lowered, (IMAGES[:, 0, 0],), None)


def test_a_finding_names_the_three_worst_layers_whatever_their_number() -> None:
    text = of_poor_layers([(f"layer{index}", float(index)) for index in range(9)]).text
    assert text == (
        "the outputs of 9 layers have an SQNR below 10 dB with respect to float "
        "(layer0: 0.0 dB; layer1: 1.0 dB; layer2: 2.0 dB)"
    )
