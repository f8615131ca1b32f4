"""What the levers of static and qat do to ranges, checked where numbers can be derived."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from quantexp.config import Engine, Flow, Observer, Qat, Scheme, Static
from quantexp.models.mlp import MLP
from quantexp.quant import engine as engines
from quantexp.quant.arithmetic.percentile import percentile_range
from quantexp.quant.engine import reduces_range
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.working import working

EXAMPLE = torch.linspace(-1.0, 3.0, 32).view(8, 4)


def qparams(option: Static | Qat, batch: Tensor = EXAMPLE) -> tuple[float, int]:
    """Return scale and zero point of the inputs, whose range is that of the batch."""
    torch.manual_seed(0)
    with working(option.engine):
        flow = flow_of(option)
        prepare = flow.prepare_static if isinstance(option, Static) else flow.prepare_qat
        prepared = prepare(option, MLP(4, [3], 2), (batch[:2],), "kernels")
        flow.calibrate(prepared, [(batch,)])
        state = flow.convert(prepared, "kernels").state_dict()
    (scale,) = (value for name, value in state.items() if name.endswith(("input_scale_0", "quant.scale")))
    (zero_point,) = (value for name, value in state.items() if name.endswith(("zero_point_0", "quant.zero_point")))
    return float(scale), int(zero_point)


@pytest.mark.parametrize("flow", ["fx", "eager"])
@pytest.mark.parametrize("method", [Static, Qat], ids=["static", "qat"])
def test_affine_ranges_are_those_of_the_values_and_symmetric_ones_as_wide_below_zero(
    method: type[Static | Qat], flow: str
) -> None:
    settings = {"flow": flow, "reduce_range": False} | ({"observer": "minmax"} if method is Static else {})
    scale, zero_point = qparams(method(activations=Scheme.affine, **settings))  # type: ignore[arg-type]
    assert scale == pytest.approx(4 / 255, rel=1e-5)
    assert zero_point == round(255 / 4)  # -1 lies a quarter up the range
    scale, zero_point = qparams(method(activations=Scheme.symmetric, **settings))  # type: ignore[arg-type]
    assert scale == pytest.approx(3 / 127.5, rel=1e-5)
    assert abs(zero_point - 127.5) == 0.5  # the middle of 0 to 255


@pytest.mark.parametrize("method", [Static, Qat], ids=["static", "qat"])
def test_a_reduced_range_has_half_the_steps(method: type[Static | Qat]) -> None:
    settings = {"observer": "minmax"} if method is Static else {}
    full, _ = qparams(method(flow=Flow.fx, reduce_range=False, **settings))  # type: ignore[arg-type]
    reduced, _ = qparams(method(flow=Flow.fx, reduce_range=True, **settings))  # type: ignore[arg-type]
    assert reduced / full == pytest.approx(255 / 127, rel=1e-5)


def test_a_percentile_leaves_outliers_out() -> None:
    batch = torch.cat([torch.linspace(-1.0, 1.0, 3999), torch.tensor([1e3])]).view(1000, 4)
    whole, _ = qparams(Static(flow=Flow.fx, observer=Observer.minmax, reduce_range=False), batch)
    assert whole == pytest.approx(1001 / 255, rel=1e-5)
    # Half a per mille on each side are two values; a bin is 1001 / 2048 wide, and the range ends at its edge.
    part, _ = qparams(Static(flow=Flow.fx, observer=Observer.percentile, percentile=99.9, reduce_range=False), batch)
    assert 2 / 255 <= part <= (2 + 2 * 1001 / 2048) / 255 * 1.01


def test_the_bounds_of_a_percentile_lie_where_the_tails_end() -> None:
    histogram = torch.tensor([1.0, 4.0, 90.0, 4.0, 1.0])  # bins from 0 to 10, two wide
    low, high = torch.tensor(0.0), torch.tensor(10.0)
    assert percentile_range(histogram, low, high, 100.0) == (0.0, 10.0)
    assert percentile_range(histogram, low, high, 98.0) == (2.0, 8.0)
    assert percentile_range(histogram, low, high, 91.0) == (2.0, 8.0), "a bin that is cut is kept as a whole"
    assert percentile_range(histogram, low, high, 90.0) == (4.0, 6.0)


@pytest.mark.parametrize(
    ("engine", "sets", "reduced"),
    [
        (Engine.x86, ["avx2"], True),
        (Engine.x86, ["avx2", "avx512_vnni"], False),
        (Engine.x86, ["avx2", "avx_vnni"], True),  # its kernels take VNNI in 512 bits only
        (Engine.fbgemm, ["amx_int8"], False),
        (Engine.onednn, ["avx2"], True),
        (Engine.onednn, ["avx_vnni"], False),
        (Engine.qnnpack, ["avx2"], False),
        (Engine.x86, [], True),  # not told
    ],
)
def test_the_range_is_reduced_where_the_cpu_needs_it_unless_told(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, sets: list[str], reduced: bool
) -> None:
    machine = type("Machine", (), {"instruction_sets": tuple(sets)})
    monkeypatch.setattr(engines, "describe", lambda: machine)
    assert reduces_range(engine, None) is reduced
    assert reduces_range(engine, True) is True
    assert reduces_range(engine, False) is False


def test_full_ranges_on_a_cpu_that_overflows_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "describe", lambda: type("Machine", (), {"instruction_sets": ("avx2",)}))
    with caplog.at_level(logging.WARNING):
        reduces_range(Engine.x86, None)
        assert caplog.messages == []
        reduces_range(Engine.x86, False)
    (told,) = caplog.messages
    assert "sums may saturate in x86" in told
