"""ONNX Runtime: it computes what the network does, with the kernels and threads that it names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import quantexp
from quantexp import contestants
from quantexp.config import (
    Amp,
    Compiled,
    DataSource,
    Dynamic,
    Eager,
    Experiment,
    FakeQuant,
    Flow,
    Lenet5,
    Mlp,
    Mnist,
    NoQuant,
    OnnxRuntime,
    Paired,
    Qat,
    Quant,
    Static,
    WeightOnly,
)
from quantexp.mission import run
from quantexp.models.lenet5 import LeNet5
from quantexp.models.mlp import MLP
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.results.metrics import metrics
from quantexp.runtimes import onnxruntime as ours
from quantexp.runtimes import prepare, require
from quantexp.runtimes.onnxruntime import OnnxNetwork
from quantexp.storage import stored
from quantexp.storage.prediction import Prediction
from quantexp.system.environment import compiler, threads
from quantexp.system.errors import BenchmarkError, ConfigError, ModelError, QuantizationError
from quantexp.tasks.inputs import Batch, examples

FEATURES, LAYERS = 32, [64, 64]
POINTS = (torch.linspace(-1.0, 3.0, 8 * FEATURES).view(8, FEATURES),)
PIECES = (FEATURES * 64, 64 * 64, 64 * 4)  # the multiply-accumulates of each layer
IMAGES = (torch.linspace(-1.0, 1.0, 4 * 32 * 32).view(4, 1, 32, 32),)
RUNTIME = OnnxRuntime()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return MLP(FEATURES, LAYERS, 4).eval()


def static(network: nn.Module, batch: Batch, **settings: Any) -> nn.Module:
    """The network quantized for the runtime, its ranges those of the batch."""
    return skeleton(Static(flow=Flow.pt2e, **settings), network, Form("int8", batch, OnnxRuntime.target))


def prepared(network: nn.Module, batch: Batch, exported: bytes | None = None) -> OnnxNetwork:
    found = prepare(RUNTIME, network, batch, exported=exported)
    assert isinstance(found, OnnxNetwork)
    return found


def edited(exported: bytes, edit: Callable[[Any], None]) -> bytes:
    """An ONNX model after `edit` changed it in place."""
    model = onnx.load_from_string(exported)
    edit(model.graph)
    changed: bytes = model.SerializeToString()
    return changed


@torch.no_grad()
def test_a_float_network_computes_the_same_for_batches_of_any_size() -> None:
    network = mlp()
    found = prepared(network, POINTS)
    for batch in (POINTS[0][:1], POINTS[0], POINTS[0].repeat(5, 1)):
        torch.testing.assert_close(found.network(batch), network(batch), rtol=1e-5, atol=1e-5)
    assert found.batch_size is None
    assert sum(operator.macs for operator in found.operators()) == sum(PIECES)
    assert {operator.precision for operator in found.operators()} == {"fp32"}


@torch.no_grad()
def test_a_static_network_runs_every_product_in_int8_also_that_of_the_last_layer() -> None:
    network = static(mlp(), POINTS)
    found = prepared(network, POINTS)
    assert [(one.precision, one.calls, one.macs) for one in found.operators()] == [("int8", 3, sum(PIECES))]
    assert not found.in_float
    torch.testing.assert_close(found.network(*POINTS), network(*POINTS), rtol=0, atol=0.05)
    assert sum(PIECES) < len(found.exported) < len(prepared(mlp(), POINTS).exported) / 2, "a byte for each weight"


def test_products_of_convolutions_and_their_share_are_counted() -> None:
    torch.manual_seed(0)
    network = LeNet5((1, 32, 32), 10).eval()
    macs = 6 * 28 * 28 * 25 + 16 * 10 * 10 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    for made in (network, static(network, IMAGES)):
        found = prepared(made, IMAGES)
        assert sum(operator.macs for operator in found.operators()) == macs


class Branched(nn.Module):
    """A convolution in groups, one before a sum, and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.groups, self.summed = nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.Conv2d(8, 8, 1)
        self.wider = nn.ConvTranspose2d(8, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.groups(x))
        wider: torch.Tensor = self.wider(y + self.summed(y))
        return wider


def test_convolutions_that_run_in_float_with_int8_weights_are_counted_and_named() -> None:
    torch.manual_seed(0)
    batch = (torch.randn(2, 4, 8, 8),)
    found = prepared(static(Branched().eval(), batch), batch)
    macs = {"groups": 64 * 8 * 9, "summed": 64 * 8 * 8, "wider": 64 * 8 * 4 * 4}
    assert sum(operator.macs for operator in found.operators()) == sum(macs.values())
    assert found.in_float == {
        "summed": "its weight is int8, but ONNX Runtime multiplied in its operator FusedConv (fp32)"
    }, "and pt2e has no quantized form of the transposed one"


def test_the_quantizer_of_onnx_runtime_takes_the_one_before_a_sum_and_leaves_the_transposed_one() -> None:
    torch.manual_seed(0)
    batch = (torch.randn(2, 4, 8, 8),)
    network = skeleton(Static(flow=Flow.onnxruntime), Branched().eval(), Form("int8", batch, OnnxRuntime.target))
    held = {layer.name: (layer.weight.is_quantized, tuple(layer.weight.shape)) for layer in held_weights(network)}
    assert held == {"groups": (True, (8, 1, 3, 3)), "summed": (True, (8, 8, 1, 1)), "wider": (False, (8, 4, 2, 2))}
    assert not prepared(network, batch).in_float


def test_a_layer_whose_output_stays_in_float_runs_in_float_after_all_and_is_named() -> None:
    found = prepared(static(mlp(), POINTS, exclude=["layers.2"]), POINTS)  # the layer before it gives floats to it
    precisions = {one.name: (one.precision, one.macs) for one in found.operators()}
    assert precisions == {"FusedGemm": ("fp32", PIECES[0]), "Gemm": ("fp32", PIECES[1]), "QGemm": ("int8", PIECES[2])}
    assert found.in_float == {
        "layers.0": "its weight is int8, but ONNX Runtime multiplied in its operator FusedGemm (fp32)"
    }, "and layers.2 has a float weight"


def test_a_layer_with_int8_weights_that_runs_in_float_is_named() -> None:
    network = static(mlp(), POINTS)

    def without_int8_inputs(graph: Any) -> None:
        """Let the second layer take what the first one gives before it is rounded."""
        _, second, _ = (node for node in graph.node if node.op_type == "Gemm")
        made = {output: node for node in graph.node for output in node.output}
        second.input[0] = made[made[second.input[0]].input[0]].input[0]
        bias = made[second.input[2]]
        constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        values = (constants[bias.input[0]] * constants[bias.input[1]]).astype("float32")
        graph.initializer.append(numpy_helper.from_array(values, "float_bias"))
        second.input[2] = "float_bias"

    planted = edited(prepared(network, POINTS).exported, without_int8_inputs)
    found = prepared(network, POINTS, planted)  # the outputs hardly change, so that only the evidence shows it
    assert "layers.2" in found.in_float
    assert {one.precision: one.macs for one in found.operators()}["int8"] <= PIECES[0] + PIECES[2]


def test_a_doubled_scale_of_one_layer_is_an_error() -> None:
    network = static(mlp(), POINTS)

    def double(graph: Any) -> None:
        weights = next(node for node in graph.node if node.op_type == "DequantizeLinear" and "per_channel" in node.name)
        scale = next(one for one in graph.initializer if one.name == weights.input[1])
        scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))

    planted = edited(prepared(network, POINTS).exported, double)
    with pytest.raises(BenchmarkError, match=r"outputs of ONNX Runtime must equal those of eager execution"):
        prepared(network, POINTS, planted)


def test_another_number_of_threads_than_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ours._session
    network, wide = MLP(512, [1024, 1024], 4).eval(), (torch.ones(64, 512),)
    monkeypatch.setattr(ours, "_session", lambda model, count, **settings: made(model, 2, **settings))
    with pytest.raises(BenchmarkError, match="runtime=onnxruntime must compute with 1 thread"):
        prepared(network, wide)
    monkeypatch.setattr(ours, "_session", lambda model, count, **settings: made(model, 1, **settings))
    with threads(2), pytest.raises(BenchmarkError, match="runtime=onnxruntime must compute with 2 threads, it has 1"):
        prepared(network, wide)


@torch.no_grad()
def test_values_beyond_those_of_calibration_are_clamped_as_in_eager_execution() -> None:
    network = static(mlp(), POINTS, reduce_range=True)
    found, far = prepared(network, POINTS), 10 * POINTS[0]
    torch.testing.assert_close(found.network(far), network(far), rtol=0, atol=0.01)


def test_a_copy_is_a_session_of_its_own_that_computes_the_same() -> None:
    found = prepared(mlp(), POINTS)
    copy = found.copied()
    (logits,), (expected,) = copy(*found.given(POINTS)), found.call(*found.given(POINTS))
    assert (logits == expected).all()
    assert copy.func.__self__ is not found.session


def test_inputs_are_not_copied() -> None:
    ((name, array),) = prepared(mlp(), POINTS).given(POINTS)[0].items()
    assert name == "x" and array.ctypes.data == POINTS[0].data_ptr()


def test_a_network_that_cannot_be_exported_is_an_error_with_a_way_out() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(
        BenchmarkError, match=r"runtime=onnxruntime needs a network that torch.onnx can export \(.*; use"
    ):
        prepared(Branches(), POINTS)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    there = util.find_spec
    monkeypatch.setattr("quantexp.system.extras.find_spec", lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(ConfigError) as caught:
        require(RUNTIME)
    assert str(caught.value) == (
        "runtime=onnxruntime needs the extra onnxruntime, of which onnxscript is not installed; "
        "run: pip install onnxruntime onnx onnxscript"
    )


@pytest.mark.parametrize(
    ("quant", "precision", "told"),
    [
        (Amp(), None, "runtime=onnxruntime does not execute quant=amp with precision=bf16"),
        (NoQuant(), "fp16", "runtime=onnxruntime does not execute quant=none with precision=fp16"),
        (FakeQuant(), None, "quant=fake_quant is a simulation in float"),
        (WeightOnly(), None, "runtime=onnxruntime does not execute networks of quant.flow=torchao"),
        (Static(flow=Flow.fx), None, "does not execute networks of quant.flow=fx; use quant.flow=pt2e"),
        (Dynamic(flow=Flow.pt2e), None, "of quant=dynamic quant.flow=pt2e; use quant.flow=onnxruntime"),
        (Dynamic(), None, "of quant=dynamic with these settings; use quant.flow=onnxruntime"),
    ],
)
def test_what_it_does_not_execute_is_refused_before_anything_starts(
    quant: Quant, precision: str | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        Experiment(quant=quant, precision=precision, runtime=OnnxRuntime())


def experiment(quant: Quant, **settings: Any) -> Experiment:
    options: dict[str, Any] = {
        "data": DataSource.sample,
        "batch_size": [4],
        "benchmark": Paired(placements=2, seconds=0.05),
        "runtime": OnnxRuntime(),
    }
    return Experiment(quant=quant, **(options | settings))


def test_a_run_compares_float_and_int8_in_the_runtime_and_with_eager_execution() -> None:
    result = run(experiment(Static(), task=Mnist(), model=Lenet5()))
    report = result.report
    assert report.runtime == "onnxruntime" and report.flow == "pt2e"
    assert [other.runtime for other in report.others] == ["eager"]
    assert report.others_quantized == (), "nothing is quantized for eager execution unless it is asked for"
    named = metrics(report)
    assert {"speedup_b4", "speedup_over_eager_b4", "float/latency_b4_ms"} <= named.keys()
    assert report.quantized is not None and report.quantized.evidence.mac_share("int8") == 1.0
    assert report.quantized.size.state_bytes < report.baseline.size.state_bytes / 3
    assert any(share.operator == "QLinearConv" for share in report.quantized.profiles[0].shares)


@pytest.mark.slow
def test_a_run_in_eager_execution_quantizes_again_for_it_and_measures_both() -> None:
    protocol = Paired(placements=2, seconds=0.05, runtimes=["onnxruntime"])
    made = experiment(Static(flow=Flow.pt2e), runtime=Eager(), model=Mlp(hidden=[16]), benchmark=protocol)
    report = run(made).report
    beside = dataclasses.replace(protocol, runtimes=["eager"])
    alone = run(dataclasses.replace(made, runtime=OnnxRuntime(), benchmark=beside)).report
    (other,) = report.others_quantized
    assert any(operator.name == "QGemm" for operator in other.measured.evidence.operators)
    assert other.measured.evidence == alone.result.evidence, "as if it were the runtime of the run"
    assert other.measured.size == alone.result.size and other.measured.quality == alone.result.quality
    assert other.measured.agreement_with_eager == alone.result.agreement_with_eager
    (eager,) = alone.others_quantized
    assert (eager.runtime, eager.measured.evidence) == ("eager", report.result.evidence)
    assert eager.speedups == eager.eager_speedups


@pytest.mark.slow
def test_int8_that_fails_in_a_named_runtime_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(made: Any, ran: Any, *rest: Any) -> Any:
        if made.promise and any(operator.name in ("Gemm", "QGemm") for operator in ran):
            raise QuantizationError("the quantized network must run int8 operators, it ran fp32")
        return inspected(made, ran, *rest)

    inspected = contestants.inspect
    quick = {"model": Mlp(hidden=[16]), "benchmark": Paired(placements=2, seconds=0.05, runtimes=["onnxruntime"])}
    monkeypatch.setattr(contestants, "inspect", inspect)
    with pytest.raises(
        QuantizationError, match=r"fails in onnxruntime: .*; leave onnxruntime out of benchmark.runtimes"
    ):
        run(experiment(Static(flow=Flow.pt2e), runtime=Eager(), **quick))


@pytest.mark.slow
def test_qat_trains_once_for_all_runtimes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    protocol = Paired(placements=2, seconds=0.05, runtimes=["onnxruntime"])
    caplog.set_level("INFO")
    made = experiment(Qat(flow=Flow.pt2e), runtime=Eager(), model=Mlp(hidden=[16]), benchmark=protocol)
    (other,) = run(dataclasses.replace(made, cache_dir=str(tmp_path))).report.others_quantized
    assert other.measured.evidence.mac_share("int8") == 1.0
    assert [caplog.messages.count(f"train     {what} mnist") for what in ("float", "qat")] == [1, 1]


@pytest.mark.skipif(compiler() is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.exhaustive
def test_it_can_stand_beside_a_compiled_network_since_it_is_exported_first() -> None:
    protocol = Paired(placements=2, seconds=0.05, runtimes=["onnxruntime"])
    report = run(experiment(Static(), runtime=Compiled(), benchmark=protocol)).report
    assert [other.runtime for other in report.others] == ["eager", "onnxruntime"]
    assert [other.runtime for other in report.others_quantized] == ["onnxruntime"]


@pytest.mark.slow
def test_two_threads_are_measured_in_a_child_that_reads_the_exported_file() -> None:
    protocol = Paired(placements=2, seconds=0.05, threads=2, runtimes=["onnxruntime"])
    report = run(experiment(Static(flow=Flow.pt2e), runtime=Eager(), benchmark=protocol)).report
    assert report.threads == 2 and [other.runtime for other in report.others] == ["onnxruntime"]
    assert [other.runtime for other in report.others_quantized] == ["onnxruntime"]


def stored_run(folder: Path) -> tuple[Path, nn.Module, Batch]:
    """A run's network in a folder, as it is recorded, the network itself, and a batch for it."""
    result = run(experiment(Static(), model=Mlp(hidden=[16])))
    stored.save(folder, result.model, result.recipe)
    return folder, result.model, examples(result.recipe.inputs, 3)


def test_the_file_that_was_measured_is_stored_and_predicts_in_the_runtime(tmp_path: Path) -> None:
    folder, network, batch = stored_run(tmp_path / "model")
    assert (folder / "network.onnx").is_file()
    loaded = quantexp.load(folder)
    assert isinstance(loaded.network, stored.Executed)
    torch.testing.assert_close(loaded(*batch), network(*batch), rtol=0, atol=0.1)
    assert isinstance(loaded.predict(torch.zeros(28, 28, dtype=torch.uint8)), Prediction)


def test_a_changed_file_is_refused_and_one_that_computes_something_else_too(tmp_path: Path) -> None:
    folder, _, _ = stored_run(tmp_path / "model")
    content = (folder / "network.onnx").read_bytes()

    def double(graph: Any) -> None:
        first = next(one for one in graph.initializer if one.name == "network.program._frozen_param0")
        first.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(first), first.name))

    (folder / "network.onnx").write_bytes(edited(content, double))
    with pytest.raises(ModelError, match=r"network\.onnx is not the file that was stored"):
        quantexp.load(folder)
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["files"]["exported"]["sha256"] = hashlib.sha256((folder / "network.onnx").read_bytes()).hexdigest()
    (folder / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(BenchmarkError, match="outputs of ONNX Runtime must equal those of eager execution"):
        quantexp.load(folder)


def test_without_the_packages_loading_says_which_extra_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = stored_run(tmp_path / "model")
    there = util.find_spec
    monkeypatch.setattr("quantexp.system.extras.find_spec", lambda name: None if name == "onnx" else there(name))
    with pytest.raises(ConfigError, match="needs the extra onnxruntime, of which onnx is not installed"):
        quantexp.load(folder)
