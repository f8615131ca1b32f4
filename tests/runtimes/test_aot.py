"""AOTInductor: a library computes what its network does, with the kernels and threads that it names."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.config import (
    Amp,
    Aot,
    Compiled,
    DataSource,
    Dynamic,
    Experiment,
    FakeQuant,
    Flow,
    Mlp,
    NoQuant,
    Paired,
    Quant,
    Runtime,
    Static,
    WeightOnly,
)
from quantexp.mission import run
from quantexp.models.lenet5 import LeNet5
from quantexp.models.mlp import MLP
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.results.metrics import metrics
from quantexp.runtimes import aot as ours
from quantexp.runtimes import prepare
from quantexp.runtimes.aot import AotNetwork
from quantexp.state.copies import copied
from quantexp.system.environment import compiler, threads
from quantexp.system.errors import BenchmarkError, ConfigError
from quantexp.tasks.inputs import Batch, examples
from tests.tokens import CLASSES, HIDDEN, SPECS, WIDTH, Averages

needs_compiler = pytest.mark.skipif(compiler() is None, reason="AOTInductor needs a C++ compiler")
slow = pytest.mark.slow
FEATURES, LAYERS = 32, [64, 64]
POINTS = (torch.linspace(-1.0, 3.0, 8 * FEATURES).view(8, FEATURES),)
TOKENS = examples(SPECS, 8)
IMAGES = (torch.linspace(-1.0, 1.0, 4 * 32 * 32).view(4, 1, 32, 32),)
PIECES = (FEATURES * 64, 64 * 64, 64 * 4)  # the multiply-accumulates of each layer
OF_IMAGES = 6 * 28 * 28 * 25 + 16 * 10 * 10 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
OF_TOKENS = WIDTH * HIDDEN + HIDDEN * CLASSES


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return MLP(FEATURES, LAYERS, 4).eval()


def averages() -> nn.Module:
    torch.manual_seed(0)
    return Averages(SPECS, CLASSES).eval()


def lenet5() -> nn.Module:
    torch.manual_seed(0)
    return LeNet5((1, 32, 32), 10).eval()


def quantized(option: Quant, precision: str, network: nn.Module, batch: Batch) -> nn.Module:
    """The network quantized for the runtime, its ranges those of the batch."""
    return skeleton(option, network, Form(precision, batch, Aot.target))


def prepared(network: nn.Module, batch: Batch, runtime: Aot | None = None) -> AotNetwork:
    found = prepare(runtime or Aot(), network, batch)
    assert isinstance(found, AotNetwork)
    return found


@dataclass(frozen=True)
class Case:
    """A method in a precision, and the multiply-accumulates of its library by precision."""

    option: Quant
    precision: str
    macs: dict[str, int]
    network: Callable[[], nn.Module] = mlp
    batch: Batch = POINTS


CASES = {
    "float": Case(NoQuant(), "fp32", {"fp32": sum(PIECES)}),
    "static": Case(Static(flow=Flow.pt2e), "int8", {"int8": sum(PIECES)}),
    "static of two inputs": Case(Static(flow=Flow.pt2e), "int8", {"int8": OF_TOKENS}, averages, TOKENS),
    "static of convolutions": Case(Static(flow=Flow.pt2e), "int8", {"int8": OF_IMAGES}, lenet5, IMAGES),
    "float of convolutions": Case(NoQuant(), "fp32", {"fp32": OF_IMAGES}, lenet5, IMAGES),
    "dynamic": Case(Dynamic(flow=Flow.pt2e), "int8", {"int8": sum(PIECES)}),
    "torchao dynamic": Case(Dynamic(flow=Flow.torchao), "int8", {"int8": sum(PIECES)}),
    "int4": Case(WeightOnly(), "int4", {"int4": sum(PIECES[:2]), "fp32": PIECES[2]}),
    "bf16": Case(NoQuant(), "bf16", {"bf16": sum(PIECES)}),
    "amp": Case(Amp(), "bf16", {"bf16": sum(PIECES)}),
}
QUICK = ("static",)


@slow
@needs_compiler
@pytest.mark.parametrize(
    "case",
    [pytest.param(one, id=name, marks=[] if name in QUICK else pytest.mark.exhaustive) for name, one in CASES.items()],
)
def test_a_library_computes_what_its_network_does_and_every_product_is_counted_in_its_precision(case: Case) -> None:
    network = quantized(case.option, case.precision, case.network(), case.batch)
    found = prepared(network, case.batch)
    assert {one.precision: 0 for one in found.operators()}.keys() == case.macs.keys()
    for precision, macs in case.macs.items():
        assert sum(one.macs for one in found.operators() if one.precision == precision) == macs
    assert not found.in_float
    assert found.batch_size == len(case.batch[0]) and found.seconds > 0
    with torch.inference_mode():
        expected, given = network(*case.batch), found.network(*case.batch)
        assert float((given - expected).abs().max()) == pytest.approx(found.max_difference, abs=1e-6)
        copies = [found.copied() for _ in range(3)]
        assert all(torch.equal(copy(*case.batch), given) for copy in copies)


@pytest.mark.exhaustive
@needs_compiler
@pytest.mark.parametrize("runtime", [Aot(max_autotune=True), Compiled(max_autotune=True)], ids=lambda one: one.name)
def test_products_in_templates_are_of_integers_only_where_both_matrices_are(runtime: Runtime) -> None:
    network = quantized(Static(flow=Flow.pt2e), "int8", mlp(), POINTS)
    found = prepare(runtime, network, POINTS)
    assert sum(one.macs for one in found.operators()) == sum(PIECES)
    assert {one.precision for one in found.operators()} == {"int8"}
    assert not found.in_float
    assert "inductor.gemm" in {one.name for one in found.operators()}, "generated, so that no operator shows it"


@pytest.fixture(scope="module")
def library() -> AotNetwork:
    with threads(1):
        return prepared(mlp(), POINTS)


@pytest.mark.exhaustive
@slow
@needs_compiler
def test_a_call_that_the_library_would_answer_with_the_values_of_other_memory_is_an_error(library: AotNetwork) -> None:
    with pytest.raises(BenchmarkError, match="must be called with the inputs and threads that it was compiled for"):
        library.network(POINTS[0][:5])
    with pytest.raises(BenchmarkError, match="must be called with the inputs and threads"):
        library.network(POINTS[0].double())
    with threads(2), pytest.raises(BenchmarkError, match=r"compiled for, .* and 1; got .* and 2"):
        library.network(*POINTS)
    strided = POINTS[0].t().contiguous().t()
    assert torch.equal(library.network(strided), library.network(*POINTS))


@pytest.mark.exhaustive
@needs_compiler
def test_a_doubled_scale_of_one_layer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(network: Any) -> None:
        network.program._scale_1.mul_(2)

    with pytest.raises(BenchmarkError, match="outputs of a network that is compiled ahead of time must equal those"):
        prepared(planted(double, monkeypatch), POINTS)


@slow
@needs_compiler
def test_a_layer_with_int8_weights_that_runs_in_float_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_floats(network: Any) -> None:
        """Let the second layer take what the first one gives before it is rounded."""
        _, second, _ = (node for node in network.program.graph.nodes if "linear" in str(node.target))
        rounded = second.args[0].args[0]
        second.update_arg(0, rounded.args[0])
        network.program.recompile()

    found = prepared(planted(take_floats, monkeypatch), POINTS)  # the outputs hardly change
    assert found.in_float.keys() == {"layers.2"}
    macs = {one.precision: one.macs for one in found.operators()}
    assert macs == {"int8": PIECES[0] + PIECES[2], "fp32": PIECES[1]}


def planted(change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A static network, of which a copy with a planted change is exported."""
    network, export = quantized(Static(flow=Flow.pt2e), "int8", mlp(), POINTS), torch.export.export

    def changed(given: nn.Module, batch: Batch) -> Any:
        copy = copied(given)
        change(copy)
        return export(copy, batch)

    monkeypatch.setattr(torch.export, "export", changed)
    return network


class Wide(nn.Module):
    """Has a loop that is worth several threads."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x).softmax(dim=1)


@pytest.mark.exhaustive
@slow
@needs_compiler
def test_another_number_of_threads_than_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ours.Library

    def with_two(*given: Any, **settings: Any) -> Any:
        with threads(2):
            return made(*given, **settings)

    monkeypatch.setattr(ours, "Library", with_two)
    with pytest.raises(BenchmarkError, match="runtime=aot must compute with 1 threads, its code has 2; use"):
        prepared(Wide(), (torch.linspace(-1.0, 1.0, 512 * 512).view(512, 512),))


class Branches(nn.Module):
    """What it computes depends on values, which one library cannot do."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@needs_compiler
def test_a_network_that_cannot_be_exported_is_an_error_that_says_why_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(
        BenchmarkError, match=r"runtime=aot needs a network that torch can export .*, but it failed \("
    ) as told:
        prepared(Branches(), POINTS)
    assert str(told.value).endswith("); use runtime=eager, and leave aot out of benchmark.runtimes")
    assert "\n" not in str(told.value)
    del told
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
@needs_compiler
def test_the_files_are_deleted_with_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = prepared(nn.Linear(4, 2).eval(), (torch.ones(2, 4),))
    assert len(list(tmp_path.iterdir())) == 1, "what it is loaded from again"
    found.copied()
    del found
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_the_error_comes_before_anything_is_trained(
    sample: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(BenchmarkError, match=r"runtime=aot needs a C\+\+ compiler, none was found; install one"):
        run(sample(quant=NoQuant(), cache_dir=str(tmp_path), runtime=Aot()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("quant", "rule"),
    [
        (Static(flow=Flow.fx), "runtime=aot does not execute .*flow=fx; use quant.flow=pt2e"),
        (FakeQuant(), "quant=fake_quant is a simulation in float, which runtime=aot does not execute"),
        (WeightOnly(), "runtime=aot makes floats of the int8 weights of quant=weight_only"),
    ],
)
def test_what_the_runtime_does_not_execute_is_refused_when_it_is_composed(quant: Quant, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        Experiment(data=DataSource.sample, runtime=Aot(), quant=quant)


@pytest.mark.exhaustive
@needs_compiler
def test_a_run_compares_both_networks_ahead_of_time_and_beside_compiled_and_eager_float(
    sample: Callable[..., Experiment],
) -> None:
    protocol = Paired(placements=2, seconds=0.02, runtimes=["compiled"])
    report = run(
        sample(model=Mlp(hidden=[64, 64]), quant=Static(), runtime=Aot(), batch_size=[1], benchmark=protocol)
    ).report
    assert (report.runtime, report.flow) == ("aot", "pt2e")
    assert [other.runtime for other in report.others] == ["eager", "compiled"]
    assert metrics(report)["int8_mac_share"] == 1.0
    assert {"speedup_b1", "speedup_over_eager_b1", "float/prepare_seconds"} <= metrics(report).keys()


@pytest.mark.exhaustive
@needs_compiler
def test_it_can_stand_beside_compiled_networks_since_it_comes_first(sample: Callable[..., Experiment]) -> None:
    protocol = Paired(placements=2, seconds=0.02, runtimes=["aot"])
    report = run(
        sample(model=Mlp(hidden=[16]), quant=Static(), runtime=Compiled(), batch_size=[1], benchmark=protocol)
    ).report
    assert [other.runtime for other in report.others] == ["eager", "aot"]


@pytest.mark.exhaustive
@needs_compiler
def test_with_two_threads_a_child_compiles_it_first_too(sample: Callable[..., Experiment]) -> None:
    protocol = Paired(placements=2, seconds=0.02, runtimes=["compiled", "aot"], threads=2)
    report = run(sample(model=Mlp(hidden=[16]), quant=NoQuant(), batch_size=[1], benchmark=protocol)).report
    assert report.threads == 2 and [other.runtime for other in report.others] == ["compiled", "aot"]
