"""ExecuTorch: it computes what the network does, with the kernels and threads that it names."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
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
    Executorch,
    Experiment,
    FakeQuant,
    Flow,
    Lenet5,
    Mnist,
    NoQuant,
    Observer,
    Paired,
    Qat,
    Quant,
    Static,
    WeightOnly,
)
from quantexp.mission import run
from quantexp.models.lenet5 import LeNet5
from quantexp.models.mlp import MLP
from quantexp.quant.flows.qdq import QdqNetwork
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form
from quantexp.results.metrics import metrics
from quantexp.runtimes import executorch_threads, prepare, require
from quantexp.runtimes.executorch import ExecutorchNetwork
from quantexp.system.environment import compiler, threads
from quantexp.system.errors import BenchmarkError, ConfigError
from quantexp.tasks.inputs import Batch

FEATURES, LAYERS = 32, [64, 64]
POINTS = (torch.linspace(-1.0, 3.0, 8 * FEATURES).view(8, FEATURES),)
PIECES = (FEATURES * 64, 64 * 64, 64 * 4)  # the multiply-accumulates of each layer
IMAGES = (torch.linspace(-1.0, 1.0, 4 * 32 * 32).view(4, 1, 32, 32),)
RUNTIME = Executorch()

pytest.importorskip("executorch", reason="runtime=executorch needs the package executorch")
pytestmark = pytest.mark.extras


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return MLP(FEATURES, LAYERS, 4).eval()


def quantized(quant: Quant, network: nn.Module, batch: Batch) -> nn.Module:
    """The network quantized for the runtime, its ranges those of the batch."""
    return skeleton(quant, network, Form("int8", batch, Executorch.target))


def static(network: nn.Module, batch: Batch, **settings: Any) -> nn.Module:
    return quantized(Static(flow=Flow.pt2e, **settings), network, batch)


def prepared(network: nn.Module, batch: Batch, exported: bytes | None = None) -> ExecutorchNetwork:
    found = prepare(RUNTIME, network, batch, exported=exported)
    assert isinstance(found, ExecutorchNetwork)
    return found


def exported(network: nn.Module, edit: Callable[[Any], None]) -> bytes:
    """The file of a copy of a quantized network after `edit` changed it in place."""
    changed: Any = copy.deepcopy(network)
    edit(changed.program)
    changed.program.recompile()
    return prepared(changed, POINTS).exported


def precisions(found: ExecutorchNetwork) -> dict[str, int]:
    """The multiply-accumulates by precision."""
    total: dict[str, int] = {}
    for operator in found.operators():
        total[operator.precision] = total.get(operator.precision, 0) + operator.macs
    return total


@torch.no_grad()
def test_a_float_network_computes_the_same_for_each_batch_size_that_it_is_prepared_for() -> None:
    network = mlp()
    for batch in (POINTS[0][:1], POINTS[0], POINTS[0].repeat(5, 1)):
        found = prepared(network, (batch,))
        assert found.batch_size == len(batch)
        torch.testing.assert_close(found.network(batch), network(batch), rtol=1e-5, atol=1e-5)
        assert precisions(found) == {"fp32": sum(PIECES)}


@torch.no_grad()
def test_a_static_network_runs_every_product_in_int8_also_that_of_the_last_layer() -> None:
    network = static(mlp(), POINTS)
    found = prepared(network, POINTS)
    assert [(one.precision, one.calls, one.macs) for one in found.operators()] == [("int8", 3, sum(PIECES))]
    assert all("QS8, QC8W" in operator.name for operator in found.operators())
    assert not found.in_float
    torch.testing.assert_close(found.network(*POINTS), network(*POINTS), rtol=0, atol=0.05)
    assert sum(PIECES) < len(found.exported) < len(prepared(mlp(), POINTS).exported) / 2, "a byte for each weight"


def test_dynamic_and_trained_networks_run_in_int8_too() -> None:
    for quant in (Dynamic(flow=Flow.pt2e), Qat(flow=Flow.pt2e)):
        found = prepared(quantized(quant, mlp(), POINTS), POINTS)
        assert precisions(found) == {"int8": sum(PIECES)} and not found.in_float


def test_products_of_convolutions_and_their_share_are_counted() -> None:
    torch.manual_seed(0)
    network = LeNet5((1, 32, 32), 10).eval()
    convolutions, linear = 6 * 28 * 28 * 25 + 16 * 10 * 10 * 6 * 25, 400 * 120 + 120 * 84 + 84 * 10
    assert precisions(prepared(network, IMAGES)) == {"fp32": convolutions + linear}
    assert precisions(prepared(static(network, IMAGES), IMAGES)) == {"int8": convolutions + linear}
    dynamic = prepared(quantized(Dynamic(flow=Flow.pt2e), network, IMAGES), IMAGES)
    assert precisions(dynamic) == {"fp32": convolutions, "int8": linear}


def test_depthwise_grouped_pointwise_and_transposed_convolutions_are_counted() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.Conv2d(8, 12, 3, groups=2, padding=1),
        nn.Conv2d(12, 12, 1),
        nn.ConvTranspose2d(12, 6, 2, stride=2),
    ).eval()
    batch = (torch.randn(2, 4, 10, 10),)
    macs = 100 * 8 * 4 * 9 + 100 * 8 * 9 + 100 * 12 * 4 * 9 + 100 * 12 * 12 + 100 * 12 * 6 * 4
    assert precisions(prepared(network, batch)) == {"fp32": macs}
    found = prepared(static(network, batch), batch)
    assert sum(precisions(found).values()) == macs
    assert precisions(found)["int8"] >= macs - 100 * 12 * 6 * 4, "all but the transposed one"


def test_layers_are_excluded_and_observers_chosen_as_in_other_runtimes() -> None:
    network = static(mlp(), POINTS, exclude=["layers.2"], observer=Observer.percentile, percentile=90.0)
    found = prepared(network, POINTS)
    assert precisions(found) == {"int8": PIECES[0] + PIECES[2], "fp32": PIECES[1]}
    assert not found.in_float, "layers.2 has a float weight"
    scales = [
        {float(node.args[1]) for node in one.program.graph.nodes if "dequantize_per_tensor" in str(node.target)}
        for one in (network, static(mlp(), POINTS, exclude=["layers.2"], observer=Observer.minmax))
        if isinstance(one, QdqNetwork)
    ]
    assert max(scales[0]) < max(scales[1])


def test_a_layer_with_int8_weights_that_runs_in_float_is_named() -> None:
    network = static(mlp(), POINTS)

    def without_int8_inputs(program: Any) -> None:
        """Let the second layer take what the first one gives before it is rounded."""
        _, second, _ = (node for node in program.graph.nodes if str(node.target) == "aten.linear.default")
        second.replace_input_with(second.args[0], second.args[0].args[0].args[0])
        program.graph.eliminate_dead_code()

    # The outputs hardly change, so that only the evidence shows it.
    found = prepared(network, POINTS, exported(network, without_int8_inputs))
    assert list(found.in_float) == ["layers.0", "layers.2"], "the first one must give integers, the second take them"
    assert all("its weight is int8, but ExecuTorch multiplied in" in reason for reason in found.in_float.values())
    assert precisions(found) == {"fp32": PIECES[0] + PIECES[1], "int8": PIECES[2]}


def test_a_doubled_scale_of_one_layer_is_an_error() -> None:
    network = static(mlp(), POINTS)

    def double(program: Any) -> None:
        name = next(name for name in dict(program.named_buffers()) if name.startswith("_scale"))
        program.get_buffer(name).mul_(2)

    planted = exported(network, double)
    with pytest.raises(BenchmarkError, match=r"outputs of ExecuTorch must equal those of eager execution"):
        prepared(network, POINTS, planted)


def test_a_file_for_another_batch_size_is_not_reused() -> None:
    network = mlp()
    first = prepared(network, POINTS)
    assert prepared(network, POINTS, first.exported).exported is first.exported
    other = prepared(network, (POINTS[0][:3],), first.exported)
    assert other.batch_size == 3 and other.exported != first.exported


def test_a_stored_state_gives_the_same_network_again() -> None:
    network, rebuilt = static(mlp(), POINTS), static(mlp(), (2 * POINTS[0],))
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt(*POINTS), network(*POINTS))
    assert prepared(rebuilt, POINTS).in_float == {}


def test_the_number_of_threads_is_that_of_torch_and_programs_survive_a_change() -> None:
    runtime = executorch_threads.library()
    found = prepared(mlp(), POINTS)
    expected = found.network(*POINTS)
    assert runtime._threadpool_get_thread_count() == 1
    with threads(2):
        prepared(mlp(), POINTS)
        assert runtime._threadpool_get_thread_count() == 2
        assert torch.equal(found.network(*POINTS), expected)


def test_another_number_of_threads_than_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = executorch_threads.library()
    reset = runtime._unsafe_reset_threadpool
    network, wide = MLP(512, [1024, 1024], 4).eval(), (torch.ones(64, 512),)
    monkeypatch.setattr(executorch_threads, "_checked", set())
    monkeypatch.setattr(runtime, "_unsafe_reset_threadpool", lambda count: reset(2))
    with pytest.raises(BenchmarkError, match="runtime=executorch must compute with 1 thread, it has 2"):
        prepared(network, wide)
    monkeypatch.setattr(executorch_threads, "use", lambda count: None)  # the pool has two threads now
    with pytest.raises(BenchmarkError, match="must compute with 1 thread, others took"):
        prepared(network, wide)


def test_a_copy_is_a_program_of_its_own_that_computes_the_same() -> None:
    found = prepared(mlp(), POINTS)
    copied = found.copied()
    assert copied is not found.call
    assert torch.equal(copied(*found.given(POINTS))[0], found.call(*found.given(POINTS))[0])


def test_inputs_are_not_copied_and_may_have_any_layout() -> None:
    found = prepared(mlp(), POINTS)
    ((given,),) = found.given(POINTS)
    assert given.data_ptr() == POINTS[0].data_ptr()
    columns = POINTS[0].t().contiguous().t()
    assert torch.equal(found.network(columns), found.network(*POINTS))


def test_the_profile_names_the_kernels_with_their_shares() -> None:
    found = prepared(static(MLP(512, [1024, 1024], 4).eval(), (torch.ones(64, 512),)), (torch.ones(64, 512),))
    profile = found.profile((torch.ones(64, 512),))
    assert any("QS8, QC8W" in share.operator for share in profile.shares)
    assert 0.95 <= sum(share.share for share in profile.shares) <= 1.0 + 1e-6


def test_neither_messages_nor_handlers_of_the_package_reach_the_user(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    with threads(2):
        prepared(mlp(), POINTS)
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")


def test_a_network_that_cannot_be_exported_is_an_error_with_a_way_out() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(
        BenchmarkError, match=r"runtime=executorch needs a network that ExecuTorch can export \(.*; use"
    ):
        prepared(Branches(), POINTS)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantexp.system.extras.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        require(RUNTIME)
    assert str(caught.value) == (
        "runtime=executorch needs the extra executorch, of which executorch is not installed; "
        "run: pip install executorch"
    )
    with pytest.raises(ConfigError, match="a network for runtime=executorch needs the extra executorch"):
        static(mlp(), POINTS)


@pytest.mark.parametrize(
    ("quant", "precision", "told"),
    [
        (Amp(), None, "runtime=executorch does not execute quant=amp with precision=bf16"),
        (NoQuant(), "fp16", "runtime=executorch does not execute quant=none with precision=fp16"),
        (FakeQuant(), None, "quant=fake_quant is a simulation in float"),
        (WeightOnly(), None, "runtime=executorch does not execute networks of quant.flow=torchao"),
        (Static(flow=Flow.fx), None, "does not execute networks of quant.flow=fx; use quant.flow=pt2e"),
        (Static(reduce_range=True), None, "quant.reduce_range=true is not supported by runtime=executorch"),
    ],
)
def test_what_it_does_not_execute_is_refused_before_anything_starts(
    quant: Quant, precision: str | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        Experiment(quant=quant, precision=precision, runtime=Executorch())


def experiment(quant: Quant, **settings: Any) -> Experiment:
    options: dict[str, Any] = {
        "data": DataSource.sample,
        "batch_size": [1, 4],
        "benchmark": Paired(placements=2, seconds=0.05),
        "runtime": Executorch(),
    }
    return Experiment(quant=quant, **(options | settings))


def test_a_run_compares_float_and_int8_in_the_runtime_and_with_eager_execution() -> None:
    report = run(experiment(Static(), task=Mnist(), model=Lenet5())).report
    assert report.runtime == "executorch" and report.flow == "pt2e"
    assert [other.runtime for other in report.others] == ["eager"]
    named = metrics(report)
    assert {"speedup_b1", "speedup_b4", "speedup_over_eager_b4", "float/latency_b4_ms"} <= named.keys()
    assert report.quantized is not None and report.quantized.evidence.mac_share("int8") == 1.0
    assert report.quantized.size.state_bytes < report.baseline.size.state_bytes / 3
    assert any("QC8" in share.operator for share in report.quantized.profiles[0].shares)


@pytest.mark.slow
def test_a_trained_network_is_not_that_of_another_quantizer_from_the_cache(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"task": Mnist(), "model": Lenet5(), "batch_size": [4], "cache_dir": str(tmp_path)}
    run(experiment(Qat(flow=Flow.pt2e), runtime=Eager(), **settings))
    report = run(experiment(Qat(flow=Flow.pt2e), **settings)).report
    assert report.quantized is not None and report.quantized.evidence.mac_share("int8") == 1.0
    assert len(list((tmp_path / "models").glob("*.json"))) == 3, "one is in float, two are trained with rounding"


@pytest.mark.slow
def test_two_threads_are_measured_in_a_child_that_reads_the_file_of_each_batch_size() -> None:
    protocol = Paired(placements=2, seconds=0.05, threads=2)
    report = run(experiment(Dynamic(), task=Mnist(), model=Lenet5(), benchmark=protocol)).report
    assert report.threads == 2 and report.flow == "pt2e"
    assert report.quantized is not None and len(report.quantized.latency) == 2


@pytest.mark.skipif(compiler() is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_it_can_stand_beside_a_compiled_network_since_all_files_are_made_first() -> None:
    protocol = Paired(placements=2, seconds=0.05, runtimes=["executorch"])
    report = run(experiment(Static(), runtime=Compiled(), benchmark=protocol)).report
    assert [other.runtime for other in report.others] == ["eager", "executorch"]
