"""Layers are included and excluded by the patterns of their names, in every flow."""

from __future__ import annotations

import pytest
from torch import Tensor, linspace, nn

from quantexp.config import METHODS, ByLayer, Dynamic, Flow, Static
from quantexp.models.mlp import MLP
from quantexp.quant.inspection.promise import Promise
from quantexp.quant.selection import kept_in_float
from quantexp.results import Evidence, LeftInFloat
from quantexp.system.errors import ConfigError, QuantizationError
from tests.networks import inspected, made

EXAMPLE = linspace(-1.0, 1.0, 8).view(2, 4)
MACS = {"layers.0": 4 * 3, "layers.2": 3 * 5, "layers.4": 5 * 2}
PAIRS = [(method, flow) for method in METHODS if issubclass(method, ByLayer) for flow in method.portable_flows()]
EVERY = pytest.mark.parametrize(("method", "flow"), PAIRS, ids=lambda one: getattr(one, "name", str(one)))


@pytest.fixture
def network() -> nn.Module:
    """Four inputs, hidden layers of three and five, two classes: layers.0, layers.2 and layers.4."""
    return MLP(4, [3, 5], 2).eval()


def lowered(option: ByLayer, network: nn.Module, example: Tensor = EXAMPLE) -> Evidence:
    quantized = made(option, network, "int8", example)
    promise = Promise("nn.Linear", layers="int8", kept=kept_in_float(option, network))
    return inspected(quantized, example, promise=promise, engine=option.packs_for)


@pytest.mark.exhaustive
@EVERY
def test_an_excluded_layer_stays_in_float_because_it_was_asked_for(
    network: nn.Module, method: type[ByLayer], flow: Flow
) -> None:
    for name in MACS:
        evidence = lowered(method(flow=flow, exclude=[name]), network)
        assert {one.name: one.precision for one in evidence.layers} == {
            other: "fp32" if other == name else "int8" for other in MACS
        }
        assert evidence.left_in_float == (LeftInFloat(name, f"quant.exclude=[{name}] includes it"),)
        assert sum(one.macs for one in evidence.operators) == sum(MACS.values())


@EVERY
def test_only_included_layers_are_quantized(network: nn.Module, method: type[ByLayer], flow: Flow) -> None:
    evidence = lowered(method(flow=flow, include=["*.2", "layers.4"], exclude=["*4"]), network)
    assert [one.name for one in evidence.layers if one.precision == "int8"] == ["layers.2"]
    assert {one.name: one.reason for one in evidence.left_in_float} == {
        "layers.0": "quant.include=[*.2,layers.4] does not include it",
        "layers.4": "quant.exclude=[*4] includes it",
    }


@pytest.mark.exhaustive
@EVERY
def test_without_patterns_every_layer_is_quantized(network: nn.Module, method: type[ByLayer], flow: Flow) -> None:
    evidence = lowered(method(flow=flow), network)
    assert {one.name: one.precision for one in evidence.layers} == dict.fromkeys(MACS, "int8")
    assert evidence.left_in_float == ()


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_a_pattern_that_matches_no_layer_is_an_error_that_lists_the_layers(network: nn.Module, key: str) -> None:
    option = Dynamic(**{key: ["layers.0", "layer.*"]})  # type: ignore[arg-type]
    with pytest.raises(QuantizationError) as error:
        made(option, network, "int8", EXAMPLE)
    assert str(error.value) == (
        f"quant.{key} must match layers, 'layer.*' matches none; the layers are layers.0, layers.2, layers.4"
    )


def test_to_exclude_every_layer_is_an_error(network: nn.Module) -> None:
    with pytest.raises(QuantizationError, match=r"must select at least one layer, they select none of layers\.0, "):
        kept_in_float(Dynamic(exclude=["*"]), network)


def test_named_layers_of_static_are_quantized_dynamically_wherever_they_stand(network: nn.Module) -> None:
    for patterns, count in ((["layers.0"], 1), (["*.2", "*.4"], 2)):
        evidence = lowered(Static(dynamic=patterns), network)
        assert {one.name: one.precision for one in evidence.layers} == dict.fromkeys(MACS, "int8")
        assert sum(one.calls for one in evidence.operators if "dynamic" in one.name) == count
        assert evidence.mac_share("int8") == 1.0


def test_layers_kept_in_float_and_layers_that_do_not_exist_cannot_be_dynamic(network: nn.Module) -> None:
    for option in (Static(dynamic=["layers.4"], exclude=["layers.4"]), Static(dynamic=["layers.9"])):
        with pytest.raises(QuantizationError, match=r"quant\.dynamic must match Linear layers that are quantized, "):
            made(option, network, "int8", EXAMPLE)


@pytest.mark.parametrize("flow", [Flow.eager, Flow.pt2e])
def test_only_fx_mixes_static_and_dynamic(flow: Flow) -> None:
    assert list(Static(flow=flow).faults()) == []
    with pytest.raises(ConfigError, match=r"quant\.dynamic cannot be chosen in quant\.flow=.* or use quant\.flow=fx"):
        Static(flow=flow, dynamic=["layers.4"])
