"""torch.compile: a program computes what its network does, with the kernels it names, wherever its weights lie."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.config import (
    Amp,
    Compiled,
    DataSource,
    Dynamic,
    Experiment,
    FakeQuant,
    Flow,
    Mlp,
    NoQuant,
    Paired,
    Qat,
    Quant,
    Static,
    WeightOnly,
)
from quantexp.mission import load, run
from quantexp.models.mlp import MLP
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.results import Operator
from quantexp.results.metrics import metrics
from quantexp.runtimes import prepare
from quantexp.runtimes.compiled import CompiledNetwork
from quantexp.runtimes.lowering import GENERATED
from quantexp.storage import stored
from quantexp.system.environment import compiler, threads
from quantexp.system.errors import BenchmarkError, ConfigError
from quantexp.tasks.inputs import Batch, examples
from quantexp.training.loop import PREDICT_BATCH, outputs
from tests.tokens import CLASSES, HIDDEN, SPECS, WIDTH, Averages

needs_compiler = pytest.mark.skipif(compiler() is None, reason="torch.compile needs a C++ compiler")
slow = pytest.mark.slow
FEATURES, LAYERS = 32, [64, 64]
POINTS = (torch.linspace(-1.0, 3.0, 8 * FEATURES).view(8, FEATURES),)
TOKENS = examples(SPECS, 8)
MACS = FEATURES * 64 + 64 * 64 + 64 * 4
PIECES = (FEATURES * 64 + 64 * 4, 64 * 64)  # of the outer layers, and of the one between


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    with threads(1):
        yield


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return MLP(FEATURES, LAYERS, 4).eval()


def averages() -> nn.Module:
    torch.manual_seed(0)
    return Averages(SPECS, CLASSES).eval()


def compiled(option: Quant, precision: str, network: nn.Module, batch: Batch) -> tuple[nn.Module, CompiledNetwork]:
    """The network as it is quantized for the runtime, its ranges those of the batch, and the same compiled."""
    quantized = skeleton(option, network, Form(precision, batch, Compiled.target))
    prepared = prepare(Compiled(), quantized, batch)
    assert isinstance(prepared, CompiledNetwork)
    return quantized, prepared


def of_inference(batch: Batch) -> Batch:
    """The batch as those that are timed are made."""
    with torch.inference_mode():
        return tuple(tensor.clone() for tensor in batch)


@dataclass(frozen=True)
class Case:
    """A method in a precision, and which operators its compiled network multiplies with."""

    option: Quant
    precision: str
    ran: tuple[Operator, ...]
    network: Callable[[], nn.Module] = mlp
    batch: Batch = POINTS


INT8 = (Operator("onednn.qlinear_pointwise", "int8", 3, MACS),)
OF_TOKENS = WIDTH * HIDDEN + HIDDEN * CLASSES
# Without instructions for bf16, oneDNN has no product in it, and torch computes it.
IN_BF16 = "mkldnn._linear_pointwise" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "aten.addmm"
CASES = {
    "float": Case(NoQuant(), "fp32", (Operator("mkl._mkl_linear", "fp32", 3, MACS),)),
    "static": Case(Static(flow=Flow.pt2e), "int8", INT8),
    "static of two inputs": Case(
        Static(flow=Flow.pt2e), "int8", (Operator("onednn.qlinear_pointwise", "int8", 2, OF_TOKENS),), averages, TOKENS
    ),
    "dynamic": Case(Dynamic(flow=Flow.pt2e), "int8", INT8),
    "qat": Case(Qat(flow=Flow.pt2e), "int8", INT8),
    "torchao dynamic": Case(Dynamic(flow=Flow.torchao), "int8", INT8),
    "int4": Case(
        WeightOnly(),
        "int4",
        (
            Operator("quantized.int4mm_packed_weight_cpu", "int4", 2, FEATURES * 64 + 64 * 64),
            Operator("mkl._mkl_linear", "fp32", 1, 64 * 4),
        ),
    ),
    "bf16": Case(NoQuant(), "bf16", (Operator(IN_BF16, "bf16", 3, MACS),)),
    "amp": Case(Amp(), "bf16", (Operator(IN_BF16, "bf16", 3, MACS),)),
}
QUICK = ("float", "static", "static of two inputs")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "case",
    [pytest.param(one, id=name, marks=[] if name in QUICK else pytest.mark.exhaustive) for name, one in CASES.items()],
)
def test_a_program_computes_what_its_network_does_with_the_kernels_it_names_wherever_its_weights_lie(
    case: Case,
) -> None:
    network, prepared = compiled(case.option, case.precision, case.network(), case.batch)
    before = {name: tensor.data_ptr() for name, tensor in network.named_parameters()}
    assert set(prepared.operators()) == set(case.ran)
    assert prepared.batch_size == 8
    assert prepared.seconds > 0
    batch, first, kept = of_inference(case.batch), prepared.program.addresses(), []
    with torch.inference_mode():
        expected, given = network(*batch), prepared.network(*batch)
        assert float((given - expected).abs().max()) == pytest.approx(prepared.max_difference, abs=1e-6)
        assert prepared.max_difference <= 2e-2
        for step in range(5):
            kept.append(torch.empty(1 + 977 * step))
            assert torch.equal(prepared.copied()(*batch), given), "computed by the same code"
            assert all(first[name] != place for name, place in prepared.program.addresses().items())
    assert {name: tensor.data_ptr() for name, tensor in network.named_parameters()} == before


@pytest.mark.slow
@needs_compiler
def test_a_call_that_torch_would_compile_anew_is_an_error_and_the_program_stays_as_it_is() -> None:
    _, prepared = compiled(NoQuant(), "fp32", mlp(), POINTS)
    _, other = compiled(NoQuant(), "fp32", mlp(), tuple(tensor[:2] for tensor in POINTS))
    batch = of_inference(POINTS)

    def expect_error(*given: Tensor) -> None:
        with pytest.raises(BenchmarkError, match="must be called as it was compiled: with the same batch size") as told:
            prepared.network(*given)
        assert "TORCHDYNAMO" not in str(told.value)

    with torch.inference_mode():
        expected = prepared.network(*batch)
        expect_error(*(tensor[:5] for tensor in batch))
        with threads(2):
            expect_error(*batch)
        expect_error(*POINTS)
    expect_error(*batch)
    with torch.inference_mode():
        assert torch.equal(prepared.network(*batch), expected)
        torch.testing.assert_close(other.network(*(tensor[:2].clone() for tensor in batch)), expected[:2])


@pytest.mark.slow
@needs_compiler
def test_what_is_multiplied_in_generated_code_is_listed_in_the_precision_it_has_there() -> None:
    batch = tuple(tensor[:1, :4] for tensor in POINTS)
    small = skeleton(Static(flow=Flow.pt2e), MLP(4, [3], 2).eval(), Form("int8", (POINTS[0][:, :4],), "qdq"))
    prepared = prepare(Compiled(), small, batch)
    assert sum(one.macs for one in prepared.operators()) == 4 * 3 + 3 * 2
    assert {one.precision for one in prepared.operators() if one.name == GENERATED} <= {"fp32"}


class Fickle(nn.Module):
    """Gives something else when it is compiled: a tenth more. Its outputs have the magnitude `scale`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale * (1.1 if torch.compiler.is_compiling() else 1.0)


class Branches(nn.Module):
    """What it computes depends on values, which one program cannot do."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_program_that_computes_something_else_is_an_error_however_large_its_outputs_are(scale: float) -> None:
    expected = r"up to rounding \(SQNR of at least 60 dB\); they have 20.0 dB and differ by up to .*; use runtime=eager"
    with pytest.raises(BenchmarkError, match=expected):
        prepare(Compiled(), Fickle(scale), POINTS)


@needs_compiler
def test_a_network_that_is_no_single_graph_is_an_error_that_says_why_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(
        BenchmarkError, match=r"can compile as one graph, but it failed \(Unsupported: Data-dependent branch"
    ) as told:
        prepare(Compiled(), Branches(), POINTS)
    assert str(told.value).endswith("); use runtime=eager, and leave compiled out of benchmark.runtimes")
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parts", [{"runtime": Compiled()}, {"benchmark": Paired(runtimes=["compiled"])}])
def test_without_a_compiler_the_error_comes_before_anything_is_trained(
    sample: Callable[..., Experiment], parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(BenchmarkError, match=r"needs a C\+\+ compiler, none was found; install one such as g\+\+"):
        run(sample(quant=NoQuant(), cache_dir=str(tmp_path), **parts))
    assert list(tmp_path.iterdir()) == []


@slow
@needs_compiler
def test_a_compiler_that_fails_is_an_error_in_one_line() -> None:
    code = (
        "import torch; from torch import nn\n"
        "from quantexp.config import Compiled; from quantexp.runtimes import prepare\n"
        "prepare(Compiled(), nn.Linear(4, 2).eval(), (torch.ones(2, 4),))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "CXX": "/bin/false"}
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("quantexp.system.errors.BenchmarkError: runtime=compiled needs a network that torch.compile")
    assert last.endswith("use runtime=eager, and leave compiled out of benchmark.runtimes")


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        (
            {"quant": Static(flow=Flow.fx)},
            "runtime=compiled does not execute .*flow=fx; use quant.flow=pt2e",
        ),
        (
            {"quant": Dynamic(flow=Flow.eager)},
            "runtime=compiled .*flow=eager; use quant.flow=pt2e or torchao",
        ),
        ({"quant": FakeQuant()}, "quant=fake_quant is a simulation in float, which runtime=compiled does not execute"),
        ({"quant": WeightOnly()}, "runtime=compiled makes floats of the int8 weights of quant=weight_only"),
    ],
    ids=lambda one: one["quant"].name if isinstance(one, dict) else "",
)
def test_what_the_runtime_does_not_execute_is_refused_when_it_is_composed(parts: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as told:
        Experiment(data=DataSource.sample, runtime=Compiled(), **parts)
    assert told.value.mismatches, "so that a sweep leaves it out"


@slow
@needs_compiler
def test_int8_weights_alone_are_floats_in_a_program_which_is_why_they_are_refused() -> None:
    _, prepared = compiled(WeightOnly(), "int8", mlp(), POINTS)
    assert prepared.operators() == (Operator("mkl._mkl_linear", "fp32", 3, MACS),)
    held = {tensor.dtype for tensor in prepared.program._first.values()}
    assert torch.int8 not in held


# Runs


@pytest.mark.slow
@needs_compiler
def test_a_compiled_run_compares_both_compiled_networks_and_stores_the_one_that_was_compiled(
    sample: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = sample(
        model=Mlp(hidden=[64, 64]), quant=Static(flow=Flow.pt2e), runtime=Compiled(), batch_size=[1, PREDICT_BATCH]
    )
    result = run(experiment)
    report, found = result.report, metrics(result.report)
    (eager,) = report.others
    assert (report.runtime, eager.runtime, eager.prepare_seconds) == ("compiled", "eager", None)
    assert {one.name for one in report.baseline.evidence.operators} == {"mkl._mkl_linear"}
    assert {one.name for one in report.result.evidence.operators} == {"onednn.qlinear_pointwise"}
    assert found["int8_mac_share"] == 1.0
    for size in (1, PREDICT_BATCH):
        over_eager = found[f"speedup_over_eager_b{size}"] * found[f"runtime/eager/float/speedup_b{size}"]
        assert found[f"speedup_b{size}"] == pytest.approx(over_eager, rel=0.5), "the same three networks, in pairs"
    assert found["prepare_seconds"] > 0 < found["float/prepare_seconds"]
    assert "runtime/eager/float/prepare_seconds" not in found
    operators = {one.operator for one in report.result.profiles[0].shares}
    assert "onednn::qlinear_pointwise" in operators, "what is profiled is the program"
    assert report.comparison is not None
    assert {one.precision for one in report.comparison.layers} == {"int8"}
    assert (result.recipe.target, result.recipe.batch_sizes) == ("qdq", (1, PREDICT_BATCH))

    stored.save(tmp_path, result.model, result.recipe)
    again, data = stored.load(tmp_path), load(experiment)
    given = outputs(again, data.evaluated)
    assert torch.equal(given, outputs(result.model, data.evaluated))
    accuracy = float((given.argmax(1) == data.evaluated.labels).double().mean())
    assert accuracy == pytest.approx(found["accuracy"], abs=2 / len(data.evaluated)), "within rounding"


@needs_compiler
def test_the_float_network_is_timed_compiled_beside_an_eager_run(sample: Callable[..., Experiment]) -> None:
    protocol = Paired(placements=2, seconds=0.02, runtimes=["compiled"])
    report = run(sample(model=Mlp(hidden=[64, 64]), quant=Static(), batch_size=[1], benchmark=protocol)).report
    found, (other,) = metrics(report), report.others
    assert (report.runtime, other.runtime) == ("eager", "compiled")
    assert found["runtime/compiled/float/prepare_seconds"] > 0
    assert other.max_difference is not None and other.max_difference < 1e-3
    names = {"runtime/compiled/float/latency_b1_ms", "runtime/compiled/float/speedup_b1", "speedup_over_compiled_b1"}
    assert names <= found.keys()
    assert "speedup_over_eager_b1" not in found, "that is speedup_b1"


@slow
@needs_compiler
def test_a_compiled_float_network_is_compared_with_itself_in_eager_execution(sample: Callable[..., Experiment]) -> None:
    report = run(sample(model=Mlp(hidden=[16]), quant=NoQuant(), runtime=Compiled(), batch_size=[1])).report
    assert report.comparison is None
    assert metrics(report)["speedup_over_eager_b1"] > 0
