"""TorchScript: a frozen trace computes what the network does, with the kernels of eager execution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.config import (
    Amp,
    DataSource,
    Dynamic,
    Engine,
    Experiment,
    FakeQuant,
    Flow,
    Mlp,
    NoQuant,
    Paired,
    Quant,
    Static,
    TorchScript,
    WeightOnly,
)
from quantexp.mission import run
from quantexp.models.lenet5 import LeNet5
from quantexp.models.mlp import MLP
from quantexp.quant.engine import supported_engines
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.reports.table import comparison_table
from quantexp.results.metrics import metrics
from quantexp.runtimes import prepare
from quantexp.runtimes import torchscript as ours
from quantexp.runtimes.pool import beside
from quantexp.runtimes.torchscript import GENERATED, ScriptedNetwork
from quantexp.state.copies import copied
from quantexp.statistics.timing import speedup
from quantexp.system.environment import threads
from quantexp.system.errors import BenchmarkError, ConfigError
from quantexp.tasks.inputs import Batch, examples
from tests.tokens import CLASSES, HIDDEN, SPECS, WIDTH, Averages

FEATURES, LAYERS = 32, [64, 64]
POINTS = (torch.linspace(-1.0, 3.0, 8 * FEATURES).view(8, FEATURES),)
TOKENS = examples(SPECS, 8)
IMAGES = (torch.linspace(-1.0, 1.0, 4 * 32 * 32).view(4, 1, 32, 32),)
MACS = FEATURES * 64 + 64 * 64 + 64 * 4
OF_IMAGES = 6 * 28 * 28 * 25 + 16 * 10 * 10 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
OF_TOKENS = WIDTH * HIDDEN + HIDDEN * CLASSES


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return MLP(FEATURES, LAYERS, 4).eval()


def lenet5() -> nn.Module:
    torch.manual_seed(0)
    return LeNet5((1, 32, 32), 10).eval()


def averages() -> nn.Module:
    torch.manual_seed(0)
    return Averages(SPECS, CLASSES).eval()


def quantized(option: Quant, precision: str, network: nn.Module, batch: Batch) -> nn.Module:
    """The network quantized for the runtime, its ranges those of the batch."""
    return skeleton(option, network, Form(precision, batch, TorchScript.target))


def prepared(network: nn.Module, batch: Batch, engine: Engine | None = None) -> ScriptedNetwork:
    found = prepare(TorchScript(), network, batch, engine)
    assert isinstance(found, ScriptedNetwork)
    return found


@dataclass(frozen=True)
class Case:
    """A method in a precision, and the multiply-accumulates of its network by precision."""

    option: Quant
    precision: str
    macs: dict[str, int]
    network: Callable[[], nn.Module] = mlp
    batch: Batch = POINTS


class Recurrent(nn.Module):
    """An LSTM and a layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(x)[0][:, -1])
        return logits


CASES = {
    "float": Case(NoQuant(), "fp32", {"fp32": MACS}),
    "float of convolutions": Case(NoQuant(), "fp32", {"fp32": OF_IMAGES}, lenet5, IMAGES),
    "fx": Case(Static(flow=Flow.fx), "int8", {"int8": MACS}),
    "fx of convolutions": Case(Static(flow=Flow.fx), "int8", {"int8": OF_IMAGES}, lenet5, IMAGES),
    "fx of two inputs": Case(Static(flow=Flow.fx), "int8", {"int8": OF_TOKENS}, averages, TOKENS),
    "a layer in float": Case(
        Static(flow=Flow.fx, exclude=["layers.2"]), "int8", {"int8": MACS - 64 * 64, "fp32": 64 * 64}
    ),
    "eager": Case(Static(flow=Flow.eager), "int8", {"int8": MACS}),
    "dynamic": Case(Dynamic(flow=Flow.eager), "int8", {"int8": MACS}),
    "dynamic LSTM": Case(
        Dynamic(flow=Flow.eager),
        "int8",
        {"int8": 6 * 4 * 32 * (16 + 32) + 32 * 4},
        lambda: Recurrent().eval(),
        (torch.linspace(-1.0, 1.0, 4 * 6 * 16).view(4, 6, 16),),
    ),
    "dynamic fp16": Case(Dynamic(flow=Flow.eager), "fp16", {"fp16": MACS}),
    "bf16": Case(NoQuant(), "bf16", {"bf16": MACS}),
    "amp": Case(Amp(), "bf16", {"bf16": MACS}),
}


@pytest.mark.parametrize("case", [pytest.param(one, id=name) for name, one in CASES.items()])
def test_a_script_computes_what_its_network_does_for_batches_of_any_size(case: Case) -> None:
    network = quantized(case.option, case.precision, case.network(), case.batch)
    found = prepared(network, case.batch)
    assert {operator.precision for operator in found.operators()} == case.macs.keys()
    for precision, macs in case.macs.items():
        assert sum(one.macs for one in found.operators() if one.precision == precision) == macs
    assert GENERATED not in {operator.name for operator in found.operators()}
    assert (found.batch_size, found.max_difference) == (None, 0.0)
    with torch.inference_mode():
        for batch in (case.batch, tuple(tensor[:1] for tensor in case.batch), tuple(t[1:4] for t in case.batch)):
            assert torch.equal(found.network(*batch), network(*batch))
            assert torch.equal(found.copied()(*batch), network(*batch))


@pytest.mark.parametrize("engine", supported_engines())
def test_the_kernels_are_those_of_the_engine_also_in_a_copy(engine: str) -> None:
    chosen = Engine(engine)
    network = quantized(Static(flow=Flow.fx, engine=chosen), "int8", lenet5(), IMAGES)
    found = prepared(network, IMAGES, chosen)
    assert {operator.precision for operator in found.operators()} == {"int8"}
    with torch.inference_mode():
        assert torch.equal(found.copied()(*IMAGES), network(*IMAGES))


def constants(script: Any) -> set[int]:
    """The addresses of the tensors in a script."""
    values = [node.output().toIValue() for node in script.graph.findAllNodes("prim::Constant")]
    return {value.data_ptr() for value in values if isinstance(value, Tensor)}


def test_a_copy_has_its_weights_at_other_addresses_and_the_network_keeps_its_own() -> None:
    network = mlp()
    before = {parameter.data_ptr() for parameter in network.parameters()}
    found = prepared(network, POINTS)
    scripts = [found.network, found.copied(), found.copied()]
    addresses = [constants(script) for script in scripts]
    assert all(addresses)
    assert not addresses[0] & addresses[1] and not addresses[1] & addresses[2] and not addresses[0] & before


class Fickle(nn.Module):
    """Gives something else when it is traced: a tenth more."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.1 if torch._C._is_tracing() else 1.0)


class Branches(nn.Module):
    """What it computes depends on values; a trace has one branch."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else 3 * x


class Counts(nn.Module):
    """Divides by the batch size, which a trace keeps as a number."""

    def forward(self, x: Tensor) -> Tensor:
        return x / float(len(x))


class Grows(nn.Module):
    """Gives a list that torch.jit cannot trace."""

    def forward(self, x: Tensor) -> Any:
        return {1: x, "two": x}


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Fickle(), r"outputs of a traced network must equal .* they have 20.0 dB .*; use runtime=eager"),
        (Branches(), r"outputs of a traced network on other values must equal"),
        (Grows(), r"needs a network that torch.jit can trace and freeze, but it failed \(RuntimeError: .*\); use"),
    ],
)
def test_a_network_of_which_a_trace_is_not_the_same_is_an_error(network: nn.Module, told: str) -> None:
    with pytest.raises(BenchmarkError, match=told):
        prepared(network, POINTS)


def test_a_network_whose_trace_is_right_for_one_batch_size_is_prepared_for_that_size() -> None:
    assert prepared(Counts(), POINTS).batch_size == 8


def test_a_doubled_scale_of_one_layer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network = quantized(Static(flow=Flow.fx), "int8", mlp(), POINTS)

    def doubled(given: nn.Module) -> nn.Module:
        made = copied(given)
        layer: Any = made.get_submodule("layers.2")
        weight, bias = layer.weight(), layer.bias()
        scales, places = 2 * weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
        layer.set_weight_bias(torch._make_per_channel_quantized_tensor(weight.int_repr(), scales, places, 0), bias)
        return made

    monkeypatch.setattr(ours, "copied", doubled)
    with pytest.raises(BenchmarkError, match=r"outputs of a traced network must equal those of eager execution"):
        prepared(network, POINTS)


def test_others_at_work_than_the_one_thread_that_was_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_two(call: Callable[[], object]) -> float:
        with threads(2):
            return beside(call)

    monkeypatch.setattr(ours, "beside", with_two)
    wide = (torch.ones(256, 1024),)
    with pytest.raises(BenchmarkError, match="runtime=torchscript must compute with 1 thread, others took"):
        prepared(MLP(1024, [1024, 1024], 4).eval(), wide)


@pytest.mark.parametrize(
    ("quant", "told"),
    [
        (Static(flow=Flow.pt2e), "runtime=torchscript does not execute networks of quant.flow=pt2e; use quant.flow="),
        (WeightOnly(), "runtime=torchscript does not execute networks of quant.flow=torchao; use runtime=eager"),
        (FakeQuant(), "quant=fake_quant is a simulation in float, which runtime=torchscript does not execute"),
    ],
)
def test_what_it_does_not_execute_is_refused_before_anything_starts(quant: Quant, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Experiment(quant=quant, runtime=TorchScript(), data=DataSource.sample)


def test_a_run_compares_float_and_int8_in_the_runtime_and_with_eager_execution(
    sample: Callable[..., Experiment],
) -> None:
    protocol = Paired(placements=2, seconds=0.05)
    report = run(
        sample(model=Mlp(hidden=[64, 64]), quant=Static(), runtime=TorchScript(), batch_size=[4], benchmark=protocol)
    ).report
    assert (report.runtime, report.flow) == ("torchscript", "fx")
    assert [other.runtime for other in report.others] == ["eager"]
    assert {"speedup_b4", "speedup_over_eager_b4", "prepare_seconds"} <= metrics(report).keys()
    assert (report.baseline.agreement_with_eager, report.result.agreement_with_eager) == (1.0, 1.0)
    assert ["Same as in eager (%)", "100.00", "100.00", ""] in [list(row) for row in comparison_table(report).rows]
    assert report.quantized is not None and report.quantized.evidence.mac_share("int8") == 1.0
    assert any("quantized::linear" in share.operator for share in report.quantized.profiles[0].shares)


def test_a_run_also_executes_int8_in_a_further_runtime_that_takes_its_flow(
    sample: Callable[..., Experiment], caplog: pytest.LogCaptureFixture
) -> None:
    protocol = Paired(placements=2, seconds=0.05, runtimes=["torchscript"])
    caplog.set_level("INFO")
    report = run(
        sample(model=Mlp(hidden=[64, 64]), quant=Static(flow=Flow.fx), batch_size=[4], benchmark=protocol)
    ).report
    (reference,), (other,) = report.others, report.others_quantized
    assert reference.runtime == other.runtime == "torchscript" and "float network alone" not in caplog.text
    there, own = other.measured, report.result
    assert (there.evidence.mac_share("int8"), there.agreement_with_eager) == (1.0, 1.0)
    assert (there.size, there.quality) == (own.size, own.quality), "the same kernels, and nothing is exported"
    over_float, over_eager = (
        speedup(one.latency[0], there.latency[0], protocol.margin) for one in (reference, report.baseline)
    )
    assert (other.speedups, other.eager_speedups) == ((over_float,), (over_eager,))


def test_int8_is_left_out_of_a_further_runtime_that_does_not_take_its_flow_and_the_run_says_so(
    sample: Callable[..., Experiment], caplog: pytest.LogCaptureFixture
) -> None:
    protocol = Paired(placements=2, seconds=0.05, runtimes=["torchscript"])
    caplog.set_level("INFO")
    report = run(sample(model=Mlp(hidden=[16]), quant=WeightOnly(), batch_size=[4], benchmark=protocol)).report
    assert ([other.runtime for other in report.others], report.others_quantized) == (["torchscript"], ())
    told = "runtime torchscript executes the float network alone: it does not execute networks of quant.flow=torchao"
    assert told in caplog.text


@pytest.mark.slow
def test_two_threads_are_measured_in_a_child(sample: Callable[..., Experiment]) -> None:
    protocol = Paired(placements=2, seconds=0.05, threads=2, runtimes=["torchscript"])
    report = run(sample(model=Mlp(hidden=[16]), quant=Static(), batch_size=[4], benchmark=protocol)).report
    assert report.threads == 2 and [other.runtime for other in report.others] == ["torchscript"]
    assert [other.runtime for other in report.others_quantized] == ["torchscript"]
