"""OpenVINO: it computes what the network does, with the kernels and threads that it names, and reports to nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

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
    Mnist,
    NoQuant,
    OpenVino,
    Paired,
    Quant,
    Static,
    WeightOnly,
)
from quantexp.mission import run
from quantexp.models.lenet5 import LeNet5
from quantexp.models.mlp import MLP
from quantexp.quant.inspection.account import account
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.results.metrics import metrics
from quantexp.runtimes import openvino as ours
from quantexp.runtimes import prepare, require
from quantexp.runtimes.openvino import OpenVinoNetwork
from quantexp.system.environment import compiler, threads
from quantexp.system.errors import BenchmarkError, ConfigError
from quantexp.tasks.inputs import Batch

onnx = pytest.importorskip("onnx", exc_type=ImportError)
pytest.importorskip("onnxscript", exc_type=ImportError)
pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(util.find_spec("openvino") is None, reason="needs openvino"),
]

FEATURES, LAYERS = 32, [64, 64]
POINTS = (torch.linspace(-1.0, 3.0, 8 * FEATURES).view(8, FEATURES),)
PIECES = (FEATURES * 64, 64 * 64, 64 * 4)  # the multiply-accumulates of each layer
IMAGES = (torch.linspace(-1.0, 1.0, 4 * 32 * 32).view(4, 1, 32, 32),)
RUNTIME = OpenVino()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return MLP(FEATURES, LAYERS, 4).eval()


def static(network: nn.Module, batch: Batch, **settings: Any) -> nn.Module:
    """The network quantized for the runtime, its ranges those of the batch."""
    return skeleton(Static(flow=Flow.pt2e, **settings), network, Form("int8", batch, OpenVino.target))


def prepared(network: nn.Module, batch: Batch, exported: bytes | None = None) -> OpenVinoNetwork:
    found = prepare(RUNTIME, network, batch, exported=exported)
    assert isinstance(found, OpenVinoNetwork)
    return found


def edited(exported: bytes, edit: Callable[[Any], None]) -> bytes:
    """An ONNX model after `edit` changed it in place."""
    model = onnx.load_from_string(exported)
    edit(model.graph)
    changed: bytes = model.SerializeToString()
    return changed


@torch.no_grad()
def test_a_float_network_computes_the_same_at_each_batch_size_that_it_is_compiled_for() -> None:
    network = mlp()
    exported = prepared(network, POINTS).exported
    for batch in (POINTS[0][:1], POINTS[0], POINTS[0].repeat(5, 1)):
        found = prepared(network, (batch,), exported)
        torch.testing.assert_close(found.network(batch), network(batch), rtol=1e-5, atol=1e-5)
        assert found.batch_size == len(batch)
        assert sum(operator.macs for operator in found.operators()) == sum(PIECES)
        assert {operator.precision for operator in found.operators()} == {"fp32"}


def test_a_network_is_exported_for_batches_of_any_size_also_from_one_example() -> None:
    found = prepared(mlp(), (POINTS[0][:1],))
    assert prepared(mlp(), POINTS, found.exported).batch_size == len(POINTS[0])


def test_outputs_stay_as_they_are_when_the_network_is_called_again() -> None:
    found = prepared(mlp(), POINTS)
    first = found.network(*POINTS)
    kept = first.clone()
    found.network(POINTS[0] + 1)
    assert torch.equal(first, kept)


@torch.no_grad()
def test_a_static_network_runs_every_product_in_int8_also_that_of_the_last_layer() -> None:
    network = static(mlp(), POINTS)
    found = prepared(network, POINTS)
    assert {one.precision for one in found.operators()} == {"int8"}
    assert sum(one.calls for one in found.operators()) == 3
    assert sum(one.macs for one in found.operators()) == sum(PIECES)
    assert all(one.name.endswith("_I8") for one in found.operators()), "the kernels say so"
    assert not found.in_float
    torch.testing.assert_close(found.network(*POINTS), network(*POINTS), rtol=0, atol=0.05)
    assert sum(PIECES) < len(found.exported) < len(prepared(mlp(), POINTS).exported) / 2, "a byte for each weight"


def test_products_of_convolutions_and_their_share_are_counted() -> None:
    torch.manual_seed(0)
    network = LeNet5((1, 32, 32), 10).eval()
    macs = 6 * 28 * 28 * 25 + 16 * 10 * 10 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    for made, precision in ((network, "fp32"), (static(network, IMAGES), "int8")):
        found = prepared(made, IMAGES)
        assert sum(operator.macs for operator in found.operators()) == macs
        assert {operator.precision for operator in found.operators()} == {precision}


class Groups(nn.Module):
    """Convolutions of several kinds, one of them transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(32, 8, 2, stride=2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


class Attends(nn.Module):
    """Attention, whose products have no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.last = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = (layer(x).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        attended = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        logits: torch.Tensor = self.last(attended.mean(1))
        return logits


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "batch", "left"),
    [
        (Groups, (torch.linspace(-1, 1, 4 * 3 * 16 * 16).view(4, 3, 16, 16),), 14 * 14 * 32 * 8 * 4),
        (Attends, (torch.linspace(-1, 1, 4 * 10 * 32).view(4, 10, 32),), 2 * 10 * 10 * 32),
    ],
)
def test_products_of_every_kind_are_counted_also_in_fused_nodes(kind: type[nn.Module], batch: Batch, left: int) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    counted = account(network, batch)
    assert not counted.unknown
    assert sum(one.macs for one in prepared(network, batch).operators()) == counted.macs
    found = prepared(static(network, batch), batch)
    macs = {one.precision: 0 for one in found.operators()}
    for one in found.operators():
        macs[one.precision] += one.macs
    assert macs == {"int8": counted.macs - left, "fp32": left}
    assert not found.in_float, "also grouped convolutions, whose weights get other names and shapes"


class Steps(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], both: bool) -> None:
        super().__init__()
        self.steps = kind(8, 16, batch_first=True, bidirectional=both)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.steps(x)[0][:, 0]
        return logits


@torch.no_grad()
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
@pytest.mark.parametrize("both", [False, True])
def test_products_of_recurrent_layers_are_counted(kind: type[nn.RNNBase], gates: int, both: bool) -> None:
    found = prepared(Steps(kind, both).eval(), (torch.ones(2, 5, 8),))
    assert sum(one.macs for one in found.operators()) == (1 + both) * 5 * gates * 16 * (8 + 16)


def test_a_layer_between_layers_in_float_still_runs_in_int8() -> None:
    found = prepared(static(mlp(), POINTS, exclude=["layers.2"]), POINTS)
    macs = {one.precision: 0 for one in found.operators()}
    for one in found.operators():
        macs[one.precision] += one.macs
    assert macs == {"fp32": PIECES[1], "int8": PIECES[0] + PIECES[2]}
    assert not found.in_float, "and layers.2 has a float weight"


def test_a_layer_with_int8_weights_that_runs_in_float_is_named() -> None:
    network = static(mlp(), POINTS)

    def without_int8_inputs(graph: Any) -> None:
        """Let the second layer take what the first one gives before it is rounded."""
        _, second, _ = (node for node in graph.node if node.op_type == "Gemm")
        made = {output: node for node in graph.node for output in node.output}
        second.input[0] = made[made[second.input[0]].input[0]].input[0]
        bias = made[second.input[2]]
        constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        values = (constants[bias.input[0]] * constants[bias.input[1]]).astype("float32")
        graph.initializer.append(onnx.numpy_helper.from_array(values, "float_bias"))
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
        scale.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(scale), scale.name))

    planted = edited(prepared(network, POINTS).exported, double)
    with pytest.raises(BenchmarkError, match=r"outputs of OpenVINO must equal those of eager execution"):
        prepared(network, POINTS, planted)


def test_another_number_of_threads_than_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ours._settings
    network, wide = MLP(512, [1024, 1024], 4).eval(), (torch.ones(64, 512),)
    monkeypatch.setattr(ours, "_settings", lambda count: made(2))
    with pytest.raises(BenchmarkError, match="runtime=openvino must compute with 1 thread"):
        prepared(network, wide)
    monkeypatch.setattr(ours, "_settings", lambda count: made(1))
    with threads(2), pytest.raises(BenchmarkError, match="runtime=openvino must compute with 2 threads, 1 took part"):
        prepared(network, wide)


def test_two_threads_are_proven_also_for_a_network_that_is_too_small_for_them() -> None:
    with threads(2):
        assert prepared(mlp(), POINTS).threads == 2


def test_a_copy_is_compiled_anew_and_computes_the_same() -> None:
    found = prepared(mlp(), POINTS)
    copy = found.copied()
    logits, expected = copy(*found.given(POINTS))[0], found.call(*found.given(POINTS))[0]
    assert (logits == expected).all()
    assert logits.ctypes.data != expected.ctypes.data


def test_inputs_are_not_copied() -> None:
    (given,) = prepared(mlp(), POINTS).given(POINTS)
    assert given.data.ctypes.data == POINTS[0].data_ptr()


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, 4)

    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(x * factor)
        return logits


@torch.no_grad()
def test_several_inputs_of_different_types_arrive_in_their_order() -> None:
    network, batch = Sum().eval(), (*POINTS, torch.arange(1, 9).view(8, 1))
    torch.testing.assert_close(prepared(network, batch).network(*batch), network(*batch), rtol=1e-5, atol=1e-5)


def test_nothing_is_reported_to_a_server(tmp_path: Path) -> None:
    """OpenVINO's telemetry reports its import, and leaves an id in the home folder, unless it is not found."""
    program = (
        "import sys, socket; from quantexp.formats.openvino import imported\n"
        "socket.socket.connect = lambda *_: print('connected')\n"
        "imported().Core(); print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=home(tmp_path))
    assert done.stdout.split() == ["[]"], done.stderr
    assert not list(tmp_path.iterdir())


def home(folder: Path) -> dict[str, str]:
    """The environment of a user with this home folder, whose programs do not run in a pipeline of tests."""
    return {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(folder)}


def test_a_network_that_cannot_be_exported_is_an_error_with_a_way_out() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(BenchmarkError, match=r"runtime=openvino needs a network that torch.onnx can export \(.*; use"):
        prepared(Branches(), POINTS)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    there = util.find_spec
    monkeypatch.setattr("quantexp.system.extras.find_spec", lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(ConfigError) as caught:
        require(RUNTIME)
    assert str(caught.value) == (
        "runtime=openvino needs the extra openvino, of which onnxscript is not installed; "
        "run: pip install openvino onnx onnxscript"
    )


@pytest.mark.parametrize(
    ("quant", "precision", "told"),
    [
        (Amp(), None, "runtime=openvino does not execute quant=amp with precision=bf16"),
        (NoQuant(), "fp16", "runtime=openvino does not execute quant=none with precision=fp16"),
        (FakeQuant(), None, "quant=fake_quant is a simulation in float"),
        (WeightOnly(), None, "runtime=openvino does not execute networks of quant.flow=torchao"),
        (Static(flow=Flow.fx), None, "does not execute networks of quant.flow=fx; use quant.flow=pt2e"),
        (Dynamic(flow=Flow.pt2e), None, "of quant=dynamic quant.flow=pt2e; use runtime=eager"),
    ],
)
def test_what_it_does_not_execute_is_refused_before_anything_starts(
    quant: Quant, precision: str | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        Experiment(quant=quant, precision=precision, runtime=OpenVino())


def experiment(quant: Quant, **settings: Any) -> Experiment:
    options: dict[str, Any] = {
        "data": DataSource.sample,
        "batch_size": [4],
        "benchmark": Paired(placements=2, seconds=0.05),
        "runtime": OpenVino(),
    }
    return Experiment(quant=quant, **(options | settings))


def test_a_run_compares_float_and_int8_in_the_runtime_and_with_eager_execution() -> None:
    result = run(experiment(Static(), task=Mnist(), model=Lenet5()))
    report = result.report
    assert report.runtime == "openvino" and report.flow == "pt2e"
    assert [other.runtime for other in report.others] == ["eager"]
    named = metrics(report)
    assert {"speedup_b4", "speedup_over_eager_b4", "float/latency_b4_ms"} <= named.keys()
    assert report.quantized is not None and report.quantized.evidence.mac_share("int8") == 1.0
    assert report.quantized.size.state_bytes < report.baseline.size.state_bytes / 3
    assert any(share.operator == "Convolution" for share in report.quantized.profiles[0].shares)


@pytest.mark.skipif(compiler() is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_it_can_stand_beside_a_compiled_network_since_it_is_exported_first() -> None:
    protocol = Paired(placements=2, seconds=0.05, runtimes=["openvino"])
    report = run(experiment(Static(), runtime=Compiled(), benchmark=protocol)).report
    assert [other.runtime for other in report.others] == ["eager", "openvino"]


@pytest.mark.slow
def test_two_threads_are_measured_in_a_child_that_reads_the_exported_file() -> None:
    protocol = Paired(placements=2, seconds=0.05, threads=2, runtimes=["openvino"])
    report = run(experiment(Static(), runtime=Eager(), benchmark=protocol)).report
    assert report.threads == 2 and [other.runtime for other in report.others] == ["openvino"]
