from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.ao.nn.quantized as quantized
from torch import Tensor, nn

from quantexp.benchmark.grouped import Convolution, slow_convolutions
from quantexp.config import Engine, Flow, Static
from quantexp.quant.engine import supported_engines, use_engine
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.working import working

X86 = pytest.mark.skipif("x86" not in supported_engines(), reason="needs the engine x86")


def convolution(**changes: Any) -> Convolution:
    """A depthwise convolution of 3x3 with its padding inside."""
    settings = {
        "channels": 192,
        "outputs": 192,
        "groups": 192,
        "kernel": (3, 3),
        "padding": (1, 1),
        "stride": (1, 1),
        "dilation": (1, 1),
    }
    return Convolution("conv", **{**settings, **changes})


FAST: list[dict[str, Any]] = [
    {},
    {"kernel": (5, 5), "padding": (2, 2)},
    {"kernel": (7, 7), "padding": (3, 3)},
    {"kernel": (3, 3, 3), "padding": (1, 1, 1), "stride": (1, 1, 1), "dilation": (1, 1, 1)},
    {"stride": (2, 2)},
    {"stride": (1, 2)},
    {"channels": 8, "outputs": 8, "groups": 8},
    {"outputs": 384},
    {"groups": 96},
    {"groups": 12},
    {"groups": 48, "stride": (2, 2)},
    {"groups": 1, "padding": (0, 0)},
    {"groups": 6, "padding": (0, 0)},
]
SLOW: list[dict[str, Any]] = [
    {"padding": (0, 0)},
    {"padding": (1, 0)},
    {"padding": (2, 2)},
    {"kernel": (5, 5), "padding": (0, 0)},
    {"groups": 96, "padding": (0, 0)},
    {"groups": 48, "padding": (0, 0)},
]
SLOW_ANYWAY: list[dict[str, Any]] = [
    {"kernel": (9, 9), "padding": (4, 4)},
    {"kernel": (3, 5), "padding": (1, 2)},
    {"kernel": (1, 3), "padding": (0, 1)},
    {"kernel": (1, 1), "padding": (0, 0)},
    {"kernel": (4, 4), "padding": (1, 1)},
    {"stride": (3, 3)},
    {"dilation": (2, 2), "padding": (2, 2)},
    {"channels": 196, "outputs": 196, "groups": 196},
    {"outputs": 576},
    {"transposed": True},
    {"groups": 48, "kernel": (5, 5), "padding": (2, 2)},
    {"groups": 48, "stride": (1, 2)},
    {"groups": 48, "outputs": 96},
    {"groups": 64},
]


@pytest.mark.parametrize("changes", FAST, ids=str)
def test_fbgemm_has_fast_kernels_for(changes: dict[str, Any]) -> None:
    assert not convolution(**changes).is_slow


@pytest.mark.parametrize("changes", SLOW, ids=str)
def test_the_padding_makes_it_slow_in(changes: dict[str, Any]) -> None:
    assert convolution(**changes).is_slow
    assert not convolution(**changes).inside.is_slow


@pytest.mark.parametrize("changes", SLOW_ANYWAY, ids=str)
def test_another_padding_would_not_make_it_fast_in(changes: dict[str, Any]) -> None:
    assert convolution(**changes).is_slow
    assert convolution(**changes).inside.is_slow


class Padded(nn.Module):
    """Depthwise convolutions: padding as a module, as a function, and inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3, groups=8))
        self.second = nn.Conv2d(8, 8, 3, groups=8)
        self.inside = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.plain = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(nn.functional.pad(self.first(x), (1, 1, 1, 1)))
        out: Tensor = self.plain(self.inside(x)).flatten(1)
        return out


@X86
def test_depthwise_convolutions_with_their_padding_outside_are_found_in_a_quantized_network() -> None:
    option, example = Static(flow=Flow.fx), (torch.rand(2, 8, 6, 6),)
    with working(Engine.x86):
        flow = flow_of(option)
        prepared = flow.prepare_static(option, Padded().eval(), example, "kernels")
        flow.calibrate(prepared, [example])
        network = flow.convert(prepared, "kernels")
    found = slow_convolutions(network, Engine.fbgemm, ())
    assert [one.name for one in found] == ["first.1", "second"]
    assert {(one.channels, one.groups, one.kernel, one.padding) for one in found} == {(8, 8, (3, 3), (0, 0))}
    assert slow_convolutions(network, Engine.x86, ("avx2",)) == found
    assert slow_convolutions(network, Engine.onednn, ()) == ()
    assert slow_convolutions(network, None, ()) == ()


@X86
def test_with_vnni_x86_computes_up_to_a_hundred_groups_with_onednn() -> None:
    with use_engine(Engine.x86):
        few, many = (quantized.Conv2d(count, count, 3, groups=count) for count in (96, 104))
    network = nn.Sequential(few, many)
    assert [one.name for one in slow_convolutions(network, Engine.x86, ("avx2", "avx512_vnni"))] == ["1"]
    assert [one.name for one in slow_convolutions(network, Engine.fbgemm, ("avx512_vnni",))] == ["0", "1"]


@X86
def test_a_depthwise_convolution_in_one_dimension_is_slow() -> None:
    with use_engine(Engine.x86):
        network = nn.Sequential(quantized.Conv1d(8, 8, 3, padding=1, groups=8))
    (found,) = slow_convolutions(network, Engine.fbgemm, ())
    assert found.kernel == (1, 3)
    assert found.inside.is_slow
