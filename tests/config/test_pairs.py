"""Which flows a method has, and which levers a flow has, is known before torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from quantexp.config import METHODS, RUNTIMES, ByLayer, Dynamic, Engine, Experiment, Flow, Qat, Static
from quantexp.system.errors import ConfigError

BY_LAYER = [method for method in METHODS if issubclass(method, ByLayer)]
PAIRS = [(method, flow) for method in BY_LAYER for flow in Flow]


@pytest.mark.parametrize("method", BY_LAYER)
def test_a_method_with_several_flows_leaves_open_which_and_prefers_the_first(method: type[ByLayer]) -> None:
    assert method().flow is (None if len(method.flows) > 1 else Flow.torchao)
    assert method().candidates() == tuple(method.portable_flows())
    assert method().candidates()[0] is {"dynamic": Flow.eager, "weight_only": Flow.torchao}.get(method.name, Flow.fx)


def test_settings_that_only_some_flows_have_narrow_the_choice() -> None:
    assert Static(engine=Engine.fbgemm).candidates() == (Flow.fx, Flow.eager)
    assert Static(dynamic=["layers.4"]).candidates() == (Flow.fx,)
    assert Dynamic().candidates("fp16") == (Flow.eager, Flow.fx)


@pytest.mark.parametrize(("method", "flow"), PAIRS)
def test_a_flow_that_a_method_lacks_is_refused_with_all_pairs(method: type[ByLayer], flow: Flow) -> None:
    if flow in method.flows:
        assert method(flow=flow).flow is flow
        return
    with pytest.raises(ConfigError) as error:
        method(flow=flow)
    (fault,) = error.value.faults
    assert fault.startswith(f"quant.flow={flow} is not supported by quant={method.name}, which has ")
    for other in BY_LAYER:
        assert f"quant={other.name}: {', '.join(other.flows)}" in fault


@pytest.mark.parametrize("method", BY_LAYER)
def test_a_flow_that_is_none_is_refused_once(method: type[ByLayer]) -> None:
    with pytest.raises(ConfigError) as error:
        method(flow="fix")  # type: ignore[arg-type]
    assert error.value.faults == (f"quant.flow must be one of {', '.join(Flow)}, got 'fix'",)


@pytest.mark.parametrize("method", BY_LAYER)
def test_the_precisions_of_a_method_are_those_of_its_flows(method: type[ByLayer]) -> None:
    assert set(method.precisions) == {name for names in method.flows.values() for name in names}
    for flow, names in method.flows.items():
        for name in names:
            runtime = next(runtime for runtime in RUNTIMES if runtime.executes(method, flow))
            assert Experiment(quant=method(flow=flow), precision=name, runtime=runtime()).precision == name


@pytest.mark.parametrize("method", BY_LAYER)
def test_without_an_engine_it_is_x86_where_the_flow_lets_one_choose(method: type[ByLayer]) -> None:
    for flow in method.flows:
        chosen = Engine.x86 if flow in (Flow.fx, Flow.eager) else None
        assert method(flow=flow).engine is chosen
        assert method(flow=flow).packs_for is chosen


@pytest.mark.parametrize(
    ("field", "value"), [("percentile", 50.0), ("percentile", 100.5), ("calibration_seed", -1)], ids=str
)
def test_levers_have_bounds(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^quant\.{field} must be (at most|at least|above) "):
        Static(**{field: value})  # type: ignore[arg-type]


def test_the_calibration_seed_is_that_of_the_run_unless_told() -> None:
    assert Experiment(quant=Static(), seed=3).data_request.seed == 3
    assert Experiment(quant=Static(calibration_seed=0), seed=3).data_request.seed == 0
    assert Experiment(quant=Qat(), seed=3).data_request.seed == 3


def test_flows_are_checked_without_torch() -> None:
    code = (
        "import sys; from quantexp.config import Experiment, Dynamic; Experiment(quant=Dynamic()); "
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
