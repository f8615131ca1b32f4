"""Values rounded to a few bits and computed with in float: what the grid is, and that nothing is said of speed."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quantexp.config import CustomModel, DataSource, Experiment, FakeQuant, Granularity, Mlp, Train
from quantexp.mission import load, run
from quantexp.models.mlp import MLP
from quantexp.quant.inspection.promise import Promise
from quantexp.quant.methods.rounded_layers import FakeQuantized, Learning, bounds, round_weight
from quantexp.reports.plots import figures
from quantexp.reports.table import comparison_table
from quantexp.results.metrics import metrics
from quantexp.system.errors import ConfigError, QuantizationError
from quantexp.training.baseline import trained
from tests.networks import inspected, loaded_again
from tests.runs import quantized

BITS = range(2, 9)  # 1 has a grid of its own
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
    layer.cover([torch.linspace(-1.0, 3.0, 9)], 100.0)
    assert float(layer.scale) == pytest.approx(4 / (2**bits - 1))
    layer.layer = nn.Identity()
    given = layer(torch.linspace(-2.0, 4.0, 1001))
    assert len(given.unique()) == 2**bits
    assert float(layer(torch.zeros(1))) == 0.0


@pytest.mark.parametrize("shape", [(5, 8), (5, 3, 7), (5, 2, 3, 3)])
def test_a_weight_of_1_bit_is_the_mean_absolute_value_of_its_channel_times_its_signs(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rounded = round_weight(weight, 1, Granularity.per_channel)
    for before, after in zip(weight, rounded, strict=True):
        assert torch.equal(after, before.abs().mean() * before.sign())
    whole = round_weight(weight, 1, Granularity.per_tensor)
    assert torch.allclose(whole, weight.abs().mean() * weight.sign())


def test_a_weight_of_zero_has_the_positive_level_with_1_bit() -> None:
    assert round_weight(torch.tensor([[0.0, -2.0]]), 1, Granularity.per_channel).tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 1), (50, 4)),
        (nn.Linear(4, 1), (50, 6, 4)),
        (nn.Conv1d(4, 1, 1), (50, 4, 6)),
        (nn.Conv2d(4, 1, 1), (50, 4, 3, 2)),
    ],
)
def test_inputs_of_1_bit_have_two_levels_a_channel_around_its_mean(layer: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    at = len(shape) - 1 if isinstance(layer, nn.Linear) else 1
    inputs.select(at, 3).abs_()  # as behind a ReLU: signs alone would tell nothing
    simulated = FakeQuantized(layer, 8, 1)
    simulated.cover([inputs[:20], inputs[20:]], 99.99)
    rounded = simulated.rounded(inputs)
    for channel in range(4):
        before, after = inputs.select(at, channel), rounded.select(at, channel)
        reach = (before - before.mean()).abs().mean()
        expected = before.mean() + torch.where(before >= before.mean(), reach, -reach)
        assert torch.allclose(after, expected, atol=1e-5)
        assert len(after.unique()) == 2


def test_inputs_of_1_bit_with_mean_0_are_those_of_xnor_net() -> None:
    inputs = torch.tensor([[1.0], [-1.0], [3.0], [-3.0]])
    simulated = FakeQuantized(nn.Linear(1, 1), 1, 1)
    simulated.cover([inputs], 100.0)
    assert simulated.rounded(inputs).tolist() == [[2.0], [-2.0], [2.0], [-2.0]]


def test_a_channel_that_never_varies_is_kept() -> None:
    inputs = torch.tensor([[5.0, 1.0], [5.0, 3.0]])
    simulated = FakeQuantized(nn.Linear(2, 1), 1, 1)
    simulated.cover([inputs], 100.0)
    assert torch.allclose(simulated.rounded(inputs), inputs)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_gradients_pass_straight_through_weights_and_through_inputs_in_range(bits: int) -> None:
    layer = nn.Linear(3, 1, bias=False)
    learning = Learning(layer, bits, bits, Granularity.per_channel)
    given = torch.tensor([[-1.0, 0.2, 1.0], [1.0, 0.6, -1.0]])
    learning.cover([given], 100.0)
    inputs = torch.tensor([[-1.0, 0.4, 100.0]], requires_grad=True)
    learning(inputs).sum().backward()
    rounded = round_weight(layer.weight.detach(), bits, Granularity.per_channel)
    assert torch.allclose(layer.weight.grad, learning.rounded(inputs).detach())
    assert torch.allclose(inputs.grad, rounded * torch.tensor([[1.0, 1.0, 0.0]]))


def test_a_trained_network_is_its_own_weights_rounded_and_beats_one_rounded_afterwards(
    small: Sample, tmp_path: Path
) -> None:
    losses = {}
    for train in (False, True):
        experiment = small(weight_bits=1, activation_bits=2, train=train)
        data = load(experiment)
        baseline = trained(experiment, data)
        before = copy.deepcopy(baseline.model.state_dict())
        found = quantized(experiment, data, baseline)
        assert all(torch.equal(value, before[name]) for name, value in baseline.model.state_dict().items())
        assert (found.training is not None) is train
        assert (found.calibration_seconds is None) is train
        for at in (0, 2):
            rows = found.model.get_submodule(f"layers.{at}").layer.weight
            assert all(len(row.abs().unique()) == 1 for row in rows)
        again, batch = loaded_again(tmp_path / str(train), found.model, experiment, data), data.test.first(64)
        with torch.no_grad():
            assert torch.equal(again(*batch), found.model(*batch))
            outputs = found.model(*data.train.first(len(data.train)))
        losses[train] = float(nn.functional.cross_entropy(outputs, data.train.labels))
    assert losses[True] < losses[False]


SHARED = """
from torch import nn


class Twice(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.first = nn.Linear(inputs, 16)
        self.middle = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.again = self.middle[0]
        self.last = nn.Linear(16, classes)
        self.tied = nn.Linear(16, 16)
        self.tied.weight = self.again.weight

    def forward(self, values):
        return self.last(self.tied(self.again(self.middle(self.first(values).relu())).relu()))
"""


def test_a_layer_in_two_places_and_a_tied_weight_are_trained_and_stored(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_twice.py").write_text(SHARED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    option = FakeQuant(weight_bits=2, train=True)
    experiment = sample(quant=option, model=CustomModel(target="own_twice.Twice"), train=Train(epochs=1, threads=1))
    data = load(experiment)
    found = quantized(experiment, data, trained(experiment, data))
    model: Any = found.model
    assert model.again is model.middle[0]
    assert torch.equal(model.again.layer.weight, model.tied.layer.weight)
    assert len(model.again.layer.weight[0].unique()) <= 3
    again, batch = loaded_again(tmp_path / "stored", model, experiment, data, trust=True), data.test.first(64)
    with torch.no_grad():
        assert torch.equal(again(*batch), model(*batch))
    sys.modules.pop("own_twice")


def test_a_tied_weight_is_learned_by_every_layer_that_has_it() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    network = nn.Sequential(*(Learning(one, 2, 8, Granularity.per_channel) for one in (first, second)))
    assert len(list(network.parameters())) == 3  # a weight and two biases
    network(torch.ones(1, 3)).sum().backward()
    assert first.weight.grad is not None


@pytest.mark.parametrize(("field", "value"), [("epochs", 3), ("learning_rate", 0.1)])
def test_a_schedule_needs_training(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^quant\.{field} is for quant\.train=true, got quant\.train=false; "):
        FakeQuant(**{field: value})


def test_training_needs_labels() -> None:
    with pytest.raises(
        ConfigError, match=r"^quant=fake_quant with quant\.train=true trains, and data=synthetic has no"
    ):
        Experiment(quant=FakeQuant(train=True), data=DataSource.synthetic)


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
def test_bits_are_from_1_to_8(field: str) -> None:
    for bits, rule in ((0, "at least 1"), (9, "at most 8")):
        with pytest.raises(ConfigError, match=rf"^quant\.{field} must be {rule}, got {bits}$"):
            FakeQuant(**{field: bits})
