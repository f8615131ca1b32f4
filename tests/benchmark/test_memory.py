"""The memory of a new process that runs the file of a runtime, without quantexp."""

from __future__ import annotations

import dataclasses
from importlib import util
from typing import Any

import pytest
import torch

from quantexp.benchmark.memory import file_memory_bytes
from quantexp.config import (
    DataSource,
    Executorch,
    Experiment,
    Flow,
    Mlp,
    OnnxRuntime,
    OpenVino,
    Paired,
    Runtime,
    Static,
)
from quantexp.mission import run
from quantexp.models.mlp import MLP
from quantexp.reports.table import comparison_table
from quantexp.runtimes import prepare
from quantexp.storage.export import FORMATS
from quantexp.system.environment import threads
from quantexp.system.errors import BenchmarkError

INPUTS, LARGE = 1000, 10_000
FORMAT = {OnnxRuntime: "onnx", OpenVino: "openvino", Executorch: "executorch"}


def needs(*packages: str) -> Any:
    return pytest.mark.skipif(not all(map(util.find_spec, packages)), reason=f"needs {' and '.join(packages)}")


RUNTIMES = [
    pytest.param(OnnxRuntime(), marks=[pytest.mark.slow, needs("onnxruntime", "onnx", "onnxscript")]),
    pytest.param(OpenVino(), marks=[pytest.mark.extras, needs("openvino", "onnx", "onnxscript")]),
    pytest.param(Executorch(), marks=[pytest.mark.extras, needs("executorch")]),
]


def needed(runtime: Runtime, hidden: int, batch_size: int = 2) -> int:
    """Return the memory of a float MLP with as many hidden values."""
    network, batch = MLP(INPUTS, [hidden], 2).eval(), (torch.rand(batch_size, INPUTS),)
    with threads(1), torch.inference_mode():
        made = prepare(runtime, network, batch)
    assert made.exported is not None
    return file_memory_bytes(runtime, network, made.exported, batch)


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_a_file_with_more_weights_needs_as_much_more_memory(runtime: Runtime) -> None:
    small, large = needed(runtime, 16), needed(runtime, LARGE)
    assert large - small > 0.9 * 4 * INPUTS * LARGE, "the weights, which are 40 MB"


@pytest.mark.slow
@needs("onnxruntime", "onnx", "onnxscript")
def test_the_process_has_neither_quantexp_nor_torch_and_a_larger_batch_needs_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = "import sys\nassert not {'quantexp', 'torch'} & set(sys.modules), 'more was imported'\n"
    form = FORMATS["onnx"]
    monkeypatch.setitem(FORMATS, "onnx", dataclasses.replace(form, lines=form.lines + alone))
    few, many = needed(OnnxRuntime(), 1000, 2), needed(OnnxRuntime(), 1000, 5000)
    assert many - few > 4 * INPUTS * 5000, "the inputs alone, which are 20 MB"
    monkeypatch.setitem(FORMATS, "onnx", dataclasses.replace(form, lines=form.lines + "import quantexp\n" + alone))
    with pytest.raises(BenchmarkError, match="AssertionError: more was imported"):
        needed(OnnxRuntime(), 16)


@needs("onnxruntime")
def test_a_file_that_cannot_be_loaded_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(
        BenchmarkError, match=r"(?s)benchmark\.memory=true needs a process .* use benchmark\.memory=false"
    ):
        file_memory_bytes(OnnxRuntime(), MLP(4, [4], 2).eval(), b"no model", (torch.rand(2, 4),))


@pytest.mark.slow
@needs("onnxruntime", "onnx", "onnxscript")
def test_a_run_has_it_for_both_networks_and_says_what_it_is() -> None:
    experiment = Experiment(
        quant=Static(flow=Flow.pt2e),
        model=Mlp(hidden=[2000]),
        runtime=OnnxRuntime(),
        data=DataSource.synthetic,
        batch_size=[1, 4],
        benchmark=Paired(placements=2, seconds=0.02, memory=True, runtimes=["eager"]),
    )
    report = run(experiment).report
    quantized, (eager,) = report.result, report.others_quantized
    for found in (report.baseline.memory_bytes, quantized.memory_bytes, eager.measured.memory_bytes):
        assert found
    assert report.baseline.memory_bytes > report.baseline.size.state_bytes  # type: ignore[operator]
    assert quantized.memory_bytes < eager.measured.memory_bytes, "that process has quantexp"  # type: ignore[operator]
    assert any("a new process that loads the network" in note for note in comparison_table(report).notes)
