"""ONNX Runtime: the network is exported to ONNX, and its CPU provider executes it, with batches of any size.

A session has a pool of threads of its own, of as many as torch computes with. It takes and returns arrays of numpy;
those of inputs share their memory with tensors.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Engine, OnnxRuntime
from quantexp.formats import onnx
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.inspection.watch import NAMES, Watch
from quantexp.results import Operator, Profile
from quantexp.runtimes import onnx_evidence as evidence
from quantexp.runtimes.agreement import largest_difference
from quantexp.runtimes.pool import made_with
from quantexp.runtimes.prepared import Prepared
from quantexp.runtimes.ran import in_float, operators
from quantexp.system import extras
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

REPAIR = "use runtime=eager, and leave onnxruntime out of benchmark.runtimes"
ERRORS_ONLY = 3  # the level of its log
PROFILED_CALLS = 5


@dataclass(frozen=True, kw_only=True)
class OnnxNetwork(Prepared):
    """A network that ONNX Runtime executes.

    Attributes:
        exported: The ONNX model.
        session: Executes it, with `threads` threads.
        names: The names of the inputs.
        seconds: The time to export the network and to make the session.
        max_difference: The largest difference of its outputs from those of eager execution.
        ran: The multiplying nodes that ran on the batch that it was checked with.
        counted: The operators of the same, with their multiply-accumulates for one example.
        in_float: Why layers with int8 weights ran in float, by name.
    """

    exported: bytes
    session: Any
    own_threads: bool = True
    threads: int
    names: tuple[str, ...]
    seconds: float
    max_difference: float = 0.0
    counted: tuple[Operator, ...] = ()
    in_float: Mapping[str, str] = field(default_factory=dict)

    def network(self, *batch: Tensor) -> Tensor:
        """Return the logits of a batch of tensors."""
        (logits,) = self.call(*self.given(batch))
        return torch.from_numpy(logits)

    @property
    def call(self) -> Callable[..., Any]:
        """The session, called with what `given` returns."""
        return functools.partial(self.session.run, [onnx.OUTPUT])

    def given(self, batch: Batch) -> tuple[dict[str, Any]]:
        """Return the batch as arrays by the name of the input; they share the memory of the tensors."""
        return (_arrays(self.names, batch),)

    def copied(self) -> Callable[..., Any]:
        """Return a new session, whose weights are packed at other addresses."""
        return functools.partial(_session(self.exported, self.threads).run, [onnx.OUTPUT])

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that ran when the network was checked."""
        return self.counted

    def profile(self, batch: Batch) -> Profile:
        """Return the shares of the time of a forward pass on `batch`, from ONNX Runtime's own profile."""
        events, _ = _profiled(self.exported, self.threads, self.given(batch)[0], PROFILED_CALLS)
        return evidence.profile(events, size(batch))


def require(runtime: OnnxRuntime) -> None:
    """Check that the packages are installed. Raises ConfigError."""
    extras.require_extra("onnxruntime", f"runtime={runtime.name}", "onnxruntime", "onnx", "onnxscript")


def prepare(
    runtime: OnnxRuntime, network: nn.Module, batch: Batch, engine: Engine | None, exported: bytes | None = None
) -> OnnxNetwork:
    """Export `network`, unless it is `exported` already, and check its outputs on `batch`.

    The caller sets the threads first.

    Raises:
        BenchmarkError: If it cannot be exported, ONNX Runtime cannot execute it, or the outputs differ.
        ConfigError: If a package is missing.
    """
    require(runtime)
    import onnxruntime  # noqa: F401 - it starts a thread of its own, which does not count

    started, count = time.perf_counter(), torch.get_num_threads()
    model = (
        exported or getattr(network, "onnx", None) or onnx.exported(network, batch, f"runtime={runtime.name}", REPAIR)
    )
    names = onnx.input_names(len(batch))
    try:
        session = made_with(
            runtime.name,
            count,
            lambda: _session(model, count),
            lambda made: made.run(None, _arrays(names, batch)),
        )
    except (BenchmarkError, MemoryError):
        raise
    except Exception as error:  # its errors are classes of a compiled module
        reason = " ".join(f"{type(error).__name__}: {error}".split())[: onnx.LONGEST_REASON]
        raise BenchmarkError(f"runtime={runtime.name} cannot execute this network ({reason}); {REPAIR}") from error
    seconds = time.perf_counter() - started
    if exported is None:
        log.info("export    to ONNX, %.2f MB: %.1f s", len(model) / 1e6, seconds)
    made = OnnxNetwork(exported=model, session=session, threads=count, names=names, seconds=seconds)
    return _checked(made, network, batch)


def _checked(made: OnnxNetwork, network: nn.Module, batch: Batch) -> OnnxNetwork:
    """Return the network with its evidence, after a comparison of its outputs with those of eager execution."""
    watch = Watch()
    with torch.no_grad():
        with watch:
            network(*batch)
        expected = network(*batch)
    events, graph = _profiled(made.exported, made.threads, made.given(batch)[0], 1)
    ran = evidence.ran(events, graph)
    macs = sum(watch.macs.values()) or size(batch) * int(getattr(network, "macs", 0))
    counted = operators(ran, size(batch), macs)
    held = [NAMES.get(layer.dtype, "") for layer in held_weights(network)]
    precisions = {*held, *(node.precision for node in ran)}
    found = made.network(*batch)
    difference = largest_difference("ONNX Runtime", lambda: network(*batch), expected, found, precisions, REPAIR)
    return replace(made, max_difference=difference, counted=counted, in_float=in_float(network, ran, "ONNX Runtime"))


def _arrays(names: tuple[str, ...], batch: Batch) -> dict[str, Any]:
    return {name: tensor.contiguous().numpy() for name, tensor in zip(names, batch, strict=True)}


def _session(model: bytes, count: int, **settings: Any) -> Any:
    """Return a session with `count` threads, all optimizations, and `settings` of its options."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = count, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = ERRORS_ONLY
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _profiled(model: bytes, count: int, inputs: Mapping[str, Any], calls: int) -> tuple[list[Mapping[str, Any]], Any]:
    """Return the events of the kernels in some calls, and the graph that was optimized for this machine."""
    import onnx as package

    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        path = str(Path(scratch) / "optimized.onnx")
        session = _session(
            model,
            count,
            enable_profiling=True,
            profile_file_prefix=str(Path(scratch) / "profile"),
            optimized_model_filepath=path,
        )
        for _ in range(calls):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return evidence.kernels(events), package.load(path).graph
