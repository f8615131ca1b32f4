"""OpenVINO: the network is exported to ONNX, read from memory, and compiled for one batch size by its CPU plugin.

With shapes of any size each call would infer them anew, which takes 10 to 25 µs, a third of a call of a small network.
A call runs in the calling thread, with the threads of a pool that all networks in OpenVINO share.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Engine, OpenVino
from quantexp.formats import onnx
from quantexp.formats import openvino as files
from quantexp.quant.flows.ir import IrNetwork
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.inspection.watch import NAMES, Watch
from quantexp.results import Operator, Profile
from quantexp.runtimes import openvino_evidence as evidence
from quantexp.runtimes.agreement import largest_difference
from quantexp.runtimes.pool import shares_with
from quantexp.runtimes.prepared import Prepared
from quantexp.runtimes.ran import Ran, in_float, operators
from quantexp.system import extras
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

REPAIR = "use runtime=eager, and leave openvino out of benchmark.runtimes"
RECURRENT = ("RNNSeq", "RNNCell")  # operators of the plugin
PROFILED_CALLS = 5
PROBE_SIZE = 512  # the rows and columns of two matrices, whose product is work for many threads


@dataclass(frozen=True, kw_only=True)
class OpenVinoNetwork(Prepared):
    """A network that OpenVINO compiled for one batch size.

    Attributes:
        exported: The ONNX model, or OpenVINO's own files, for batches of any size.
        shapes: Those of the inputs.
        batch_size: The batch size in them.
        request: Executes the network, with `threads` threads.
        seconds: The time to export and to compile it.
        max_difference: The largest difference of its outputs from those of eager execution.
        counted: The multiplying operators that run, with their multiply-accumulates for one example.
        in_float: Why layers with int8 weights run in float, by name.
    """

    exported: bytes
    own_threads: bool = True
    shapes: tuple[tuple[int, ...], ...]
    batch_size: int
    request: Any
    threads: int
    seconds: float
    max_difference: float = 0.0
    counted: tuple[Operator, ...] = ()
    in_float: Mapping[str, str] = field(default_factory=dict)

    def network(self, *batch: Tensor) -> Tensor:
        """Return the logits of a batch of tensors."""
        return torch.from_numpy(self.call(*self.given(batch))[0].copy())  # the next call writes into the same memory

    @property
    def call(self) -> Callable[..., Any]:
        """The request, called with what `given` returns; it returns arrays that the next call overwrites."""
        return _caller(self.request)

    def given(self, batch: Batch) -> tuple[Any]:
        """Return the batch as OpenVINO's tensors, by the index of the input; they share the memory of the tensors."""
        openvino = files.imported()
        arrays = (tensor.contiguous().numpy() for tensor in batch)
        tensors = [openvino.Tensor(array, shared_memory=True) for array in arrays]
        return (tensors[0] if len(tensors) == 1 else dict(enumerate(tensors)),)

    def copied(self) -> Callable[..., Any]:
        """Return what `call` is, of a network that was read and compiled anew, whose weights have other addresses."""
        _, compiled = _compiled(self.exported, self.shapes, self.threads)
        return _caller(compiled.create_infer_request())

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators of the graph that runs."""
        return self.counted

    def profile(self, batch: Batch) -> Profile:
        """Return the shares of the time of a forward pass on `batch`, from OpenVINO's own profile."""
        _, compiled = _compiled(self.exported, self.shapes, self.threads, PERF_COUNT=True)
        request, given = compiled.create_infer_request(), self.given(batch)
        calls = []
        for _ in range(PROFILED_CALLS):
            _caller(request)(*given)
            calls.append(request.get_profiling_info())
        return evidence.profile(calls, size(batch))


def require(runtime: OpenVino) -> None:
    """Check that the packages are installed. Raises ConfigError."""
    extras.require_extra("openvino", f"runtime={runtime.name}", "openvino", "onnx", "onnxscript")


def prepare(
    runtime: OpenVino, network: nn.Module, batch: Batch, engine: Engine | None, exported: bytes | None = None
) -> OpenVinoNetwork:
    """Export `network`, unless it is `exported` already, compile it, and check its outputs on `batch`.

    The caller sets the threads first.

    Raises:
        BenchmarkError: If it cannot be exported, OpenVINO cannot execute it, or the outputs differ.
        ConfigError: If a package is missing.
    """
    require(runtime)
    started, count = time.perf_counter(), torch.get_num_threads()
    model = exported or _exported(runtime, network, batch)
    shapes = tuple(tuple(tensor.shape) for tensor in batch)
    try:
        read, compiled = _compiled(model, shapes, count)
        made = OpenVinoNetwork(
            exported=model,
            shapes=shapes,
            batch_size=size(batch),
            request=compiled.create_infer_request(),
            threads=count,
            seconds=time.perf_counter() - started,
        )
        made.network(*batch)
    except MemoryError:
        raise
    except Exception as error:  # those of its frontend and its plugins are RuntimeErrors with long messages
        reason = " ".join(f"{type(error).__name__}: {error}".split())[: onnx.LONGEST_REASON]
        raise BenchmarkError(f"runtime={runtime.name} cannot execute this network ({reason}); {REPAIR}") from error
    if exported is None:
        log.info("export    for OpenVINO, %.2f MB: %.1f s", len(model) / 1e6, made.seconds)
    given = made.given(batch)
    shares_with(runtime.name, count, lambda: made.call(*given), _probe(count))
    if (own := int(compiled.get_property("INFERENCE_NUM_THREADS"))) != count:
        raise BenchmarkError(f"runtime={runtime.name} must compute with {_number(count)}, it is set to {own}; {REPAIR}")
    return _checked(made, evidence.ran(compiled.get_runtime_model(), read), network, batch)


def _checked(made: OpenVinoNetwork, ran: list[Ran], network: nn.Module, batch: Batch) -> OpenVinoNetwork:
    """Return the network with its evidence, after a comparison of its outputs with those of eager execution."""
    watch = Watch()
    with torch.no_grad():
        with watch:
            network(*batch)
        expected = network(*batch)
    held = [NAMES.get(layer.dtype, "") for layer in held_weights(network)]
    precisions = {*held, *(node.precision for node in ran)}
    return replace(
        made,
        max_difference=largest_difference(
            "OpenVINO", lambda: network(*batch), expected, made.network(*batch), precisions, REPAIR
        ),
        counted=operators(ran, size(batch), sum(watch.macs.values())),
        in_float={**in_float(network, ran, "OpenVINO"), **_recurrent_in_float(network, ran)},
    )


def _recurrent_in_float(network: nn.Module, ran: Iterable[Ran]) -> dict[str, str]:
    """Return the recurrent layers of NNCF's network if they ran in float; what ran has lost their names."""
    floats = [node for node in ran if node.operator.startswith(RECURRENT) and node.precision != "int8"]
    if not floats or not isinstance(network, IrNetwork):
        return {}
    how = f"in its operator {floats[0].operator} ({floats[0].precision})"
    return {layer: f"OpenVINO multiplied {how}" for layer in network.recurrent()}


def _exported(runtime: OpenVino, network: nn.Module, batch: Batch) -> bytes:
    """Return the network as an ONNX model, or as OpenVINO's own files if it consists of them."""
    if isinstance(network, IrNetwork):
        return network.files
    return onnx.exported(network, _several(batch), f"runtime={runtime.name}", REPAIR)


def _several(batch: Batch) -> Batch:
    """Return at least two examples, which an export for batches of any size needs."""
    return batch if size(batch) > 1 else tuple(torch.cat([tensor, tensor]) for tensor in batch)


def _compiled(model: bytes, shapes: Sequence[Sequence[int]], count: int, **settings: Any) -> tuple[Any, Any]:
    """Return an ONNX model as it was read, and compiled for these shapes, `count` threads and `settings`."""
    core = _core()
    read = files.read(core, model, shapes)
    return read, core.compile_model(read, "CPU", _settings(count) | settings)


def _settings(count: int) -> dict[str, Any]:
    """Return the settings of a network that computes in float32 and is alone on `count` threads.

    The precision by default is bf16 on some CPUs. Threads are not bound to cores, as in other runtimes: a core can be
    busy with another process.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": count,
        "ENABLE_CPU_PINNING": False,
    }


@functools.cache
def _core() -> Any:
    return files.imported().Core()


def _number(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _caller(request: Any) -> Callable[..., Any]:
    return functools.partial(request.infer, share_inputs=True, share_outputs=True)


def _probe(count: int) -> Callable[[], Any]:
    """Return a function with work for many threads, which a network with the same settings computes."""
    import numpy as np

    openvino = files.imported()
    matrix = np.ones((PROBE_SIZE, PROBE_SIZE), dtype=np.float32)
    given = openvino.opset13.parameter(matrix.shape, np.float32)
    product = openvino.opset13.matmul(given, openvino.opset13.constant(matrix), False, False)
    compiled = _core().compile_model(openvino.Model([product], [given]), "CPU", _settings(count))
    return functools.partial(_caller(compiled.create_infer_request()), matrix)
