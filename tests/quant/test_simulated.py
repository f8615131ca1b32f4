"""Values rounded to a few bits and computed with in float: what the grid is, and that nothing is said of speed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from quantexp.config import Experiment, FakeQuant, Granularity, Mlp, Train
from quantexp.mission import load, run
from quantexp.models.mlp import MLP
from quantexp.quant.inspection.promise import Promise
from quantexp.quant.methods.fake_quant import FakeQuantized, bounds, round_weight
from quantexp.reports.plots import figures
from quantexp.reports.table import comparison_table
from quantexp.results.metrics import metrics
from quantexp.system.errors import ConfigError, QuantizationError
from quantexp.training.baseline import trained
from tests.networks import inspected, loaded_again
from tests.runs import quantized

BITS = range(2, 9)
Sample = Callable[..., Experiment]


@pytest.fixture
def small(sample: Sample) -> Sample:
    def build(**settings: object) -> Experiment:
        train = Train(epochs=3, learning_rate=0.01, threads=1)
        return sample(quant=FakeQuant(**settings), model=Mlp(hidden=[16]), train=train)  # type: ignore[arg-type]

    return build


@pytest.mark.parametrize("bits", BITS)
def test_weights_lie_on_a_grid_of_as_many_levels_as_the_bits_tell(bits: int) -> None:
    weight = torch.linspace(-1.0, 1.0, 3000).view(3, 1000)
    rounded = round_weight(weight, bits, Granularity.per_channel)
    for before, after in zip(weight, rounded, strict=True):
        scale = before.abs().max() / (2 ** (bits - 1) - 1)
        assert (after / scale - (after / scale).round()).abs().max() < 1e-4
        assert len(after.unique()) <= 2**bits
        assert (before - after).abs().max() <= scale / 2 * 1.0001
    whole = round_weight(weight, bits, Granularity.per_tensor)
    assert len(whole.unique()) == 2**bits - 1  # from -1 to 1, zero among them


@pytest.mark.parametrize("bits", BITS)
def test_inputs_are_rounded_to_a_grid_that_spans_the_range_and_holds_zero(bits: int) -> None:
    layer = FakeQuantized(nn.Linear(1, 1), 8, bits)
    layer.cover(-1.0, 3.0)
    assert float(layer.scale) == pytest.approx(4 / (2**bits - 1))
    layer.layer = nn.Identity()
    given = layer(torch.linspace(-2.0, 4.0, 1001))
    assert len(given.unique()) == 2**bits
    assert float(layer(torch.zeros(1))) == 0.0


def test_bounds_leave_the_same_share_out_on_either_side() -> None:
    values = torch.arange(1000.0)
    assert bounds(values, 100.0) == (0.0, 999.0)
    assert bounds(values, 98.0) == (10.0, 989.0)


def test_fewer_bits_agree_less_with_the_float_model(small: Sample) -> None:
    drops = []
    for bits in (8, 2):
        comparison = run(small(weight_bits=bits, activation_bits=bits)).report.comparison
        assert comparison is not None
        drops.append(comparison.agreement)
    assert drops[0] >= 0.97
    assert drops[1] < drops[0]


def test_a_simulated_run_has_an_accuracy_and_no_latency(small: Sample) -> None:
    report = run(small(weight_bits=3)).report
    assert report.result.latency == ()
    assert report.comparison is not None
    assert report.comparison.speedups == ()
    assert {(one.precision, one.bits) for one in report.result.evidence.layers} == {("simulated", 3)}
    assert not [name for name in metrics(report) if "latency" in name or "speedup" in name]
    assert "latency.png" not in figures(report)
    table = comparison_table(report)
    assert not [row for row in table.rows if row[0].startswith(("Latency", "First"))]
    assert (
        "Evidence: 2 of 2 layers are simulated: weights rounded to 3 bits, computed in float, with the size of float."
        in table.notes
    )


def test_layers_are_left_in_float_where_asked_and_stored_bit_for_bit(small: Sample, tmp_path: Path) -> None:
    experiment = small(exclude=["layers.2"])
    data = load(experiment)
    baseline = trained(experiment, data)
    before = copy.deepcopy(baseline.model.state_dict())
    found = quantized(experiment, data, baseline)
    assert all(torch.equal(value, before[name]) for name, value in baseline.model.state_dict().items())
    layers = {one.name: one.precision for one in inspected(found.model, *data.example, promise=found.promise).layers}
    assert layers == {"layers.0": "simulated", "layers.2": "fp32"}
    again, batch = loaded_again(tmp_path, found.model, experiment, data), data.test.first(64)
    with torch.no_grad():
        assert torch.equal(again(*batch), found.model(*batch))


def test_weights_that_were_not_rounded_are_an_error() -> None:
    network = MLP(40, [3], 2).eval()
    network.layers[0] = FakeQuantized(network.layers[0], 2, 8)
    with pytest.raises(QuantizationError, match="must have simulated layers, it has fp32"):
        inspected(network, torch.ones(2, 40), promise=Promise("nn.Linear", layers="simulated"))


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
def test_bits_are_from_2_to_8(field: str) -> None:
    for bits, rule in ((1, "at least 2"), (9, "at most 8")):
        with pytest.raises(ConfigError, match=rf"^quant\.{field} must be {rule}, got {bits}$"):
            FakeQuant(**{field: bits})
