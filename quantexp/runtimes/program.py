"""What torch.compile makes of a network for batches of one size: generated code, and the constants that it takes.

The weights are frozen: they stand in the generated module in the form that its kernels want. A program runs in
inference mode, with as many threads as it was compiled under, on tensors that were made in inference mode, as the
batches are that are timed. Anything else would make torch compile again in silence, with the weights not frozen: that
is an error here. So is whatever makes torch forget its programs; quantizing and exporting come first.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config as inductor
from torch import Tensor, fx
from torch._dynamo.eval_frame import remove_from_cache
from torch._dynamo.exc import ShortenTraceback
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.utils import fresh_cache

from quantexp.quant.inspection.watch import Watch
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch

NOISY = ("torch.utils.cpp_extension", "torch.utils._pytree")  # miss CUDA, and announce an end, of no use here


class NotCompiledForError(BenchmarkError, ShortenTraceback):
    """A program is called as it was not compiled for. Of torch's errors, as others do not get through torch."""

    def __init__(self) -> None:
        super().__init__(first_useful_frame=None)

    def __str__(self) -> str:  # torch adds to messages
        return (
            "a compiled network must be called as it was compiled: with the same batch size and threads, in inference "
            "mode, on tensors that were made in it, and before another network is quantized; it was called otherwise"
        )


class Program:
    """A network compiled for batches like one.

    Attributes:
        function: What torch.compile gave; called as `function(*batch)`.
        seconds: What compiling took, with no cache of an earlier one, and with what starts the compiler not counted.
    """

    def __init__(self, network: Callable[..., Any], batch: Batch) -> None:
        """Compile. Raises whatever the compilers of torch and of the system stumble over."""
        parts: list[Any] = []
        entry = _with_own_code(network)
        self.function, self.seconds = _compiled(entry, batch, parts)
        ((self._part, packed),) = parts
        parts.clear()  # torch keeps every backend until it is reset, and with it what that holds
        self._constants = _module(self._part)
        self._first = {name: value for name, value in self._constants.items() if isinstance(value, Tensor)}
        self._plain = {id(tensor): (plain, examples) for tensor, plain, examples in packed}
        self._kept = [tensor for tensor, *_ in packed]  # so that no other tensor gets their ids
        weakref.finalize(self, _forget, entry.__code__, self._constants)

    def move(self) -> None:
        """Move the constants elsewhere in memory: the generated code looks them up by name in every call."""
        with torch.inference_mode():
            for name, value in self._first.items():
                self._constants[name] = self._copy(value)

    def watch(self, batch: Batch) -> Watch:
        """Return what multiplies in a call: torch runs no compiled code under a mode, the generated code does."""
        run, watch = self._part.current_callable, Watch()

        def watched(inputs: Any) -> Any:
            with watch:
                return run(inputs)

        self._part.current_callable = watched
        try:
            with torch.inference_mode():
                self.function(*batch)
        finally:
            self._part.current_callable = run
        return watch

    def addresses(self) -> dict[str, int]:
        """Return where each constant lies."""
        return {name: _address(self._constants[name]) for name in self._first}

    def _copy(self, value: Tensor) -> Tensor:
        if found := self._plain.get(id(value)):
            # What MKL packs depends on where it lies: a copy elsewhere computes garbage, or crashes.
            packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(*found)
            return packed
        return value.clone()


def _compiled(entry: types.FunctionType, batch: Batch, parts: list[Any]) -> tuple[Callable[..., Any], float]:
    """Return the compiled function and the seconds that it took; put the generated code into `parts`."""
    sealed = False

    def inner(graph: fx.GraphModule, inputs: Any, **settings: Any) -> Any:
        packed = list(_packed_by_mkl(graph))  # compiling rewrites the graph
        part = compile_fx_inner(graph, inputs, **settings)
        parts.append((part, packed))
        return part

    def backend(graph: fx.GraphModule, inputs: Any) -> Any:
        if sealed:
            raise NotCompiledForError
        return compile_fx(graph, inputs, inner_compile=inner)

    _get_ready()
    function = torch.compile(entry, backend=backend, fullgraph=True, dynamic=False)
    failure: Exception | None = None
    with fresh_cache(), torch.inference_mode(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch(ao)?\b")  # of its own code, for its developers
        try:
            _start_compiler()
            started = time.perf_counter()
            with inductor.patch(freezing=True), torch._dynamo.config.patch(allow_rnn=True):
                function(*batch)
            seconds = time.perf_counter() - started
        except Exception as error:  # raised outside, as otherwise the folder of the cache stays
            failure = error
    if failure is not None:
        raise failure
    sealed = True
    return function, seconds


def _get_ready() -> None:
    """Silence the loggers that say nothing of use, and register how int8 is fused."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401


@functools.cache
def _start_compiler() -> None:
    """Compile next to nothing: the first program of a process pays for what all programs need."""
    entry = _with_own_code(lambda x: x + 1)
    torch.compile(entry, dynamic=False)(torch.zeros(8))
    remove_from_cache(entry)


def _with_own_code(network: Callable[..., Any]) -> types.FunctionType:
    """Return a function with a code object and global names of its own.

    Torch keeps what it compiled at the code object of the function, at most 8 programs, which it searches in each call,
    and among its global names.
    """

    def run(*batch: Tensor) -> Any:
        return network(*batch)

    return types.FunctionType(run.__code__.replace(), dict(run.__globals__), "run", None, run.__closure__)


def _packed_by_mkl(graph: fx.GraphModule) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield what MKL packed: the packed weight, the plain one, and the batch size that it is packed for."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.mkl._mkl_linear:
            _, packed, plain, _, examples = node.args
            yield getattr(graph, packed.target), getattr(graph, plain.target), examples


def _module(part: Any) -> dict[str, Any]:
    """Return the names of the module that was generated; its constants are among them."""
    call = part.current_callable
    names: dict[str, Any] = getattr(call, "__func__", call).__globals__
    return names


def _forget(code: types.CodeType, names: dict[str, Any]) -> None:
    """Let go of a program and of the constants of its generated module: torch and sys.modules hold on to them."""
    remove_from_cache(code)
    sys.modules.pop(names["__name__"], None)
    for name in [name for name, value in names.items() if isinstance(value, Tensor)]:
        del names[name]


def _address(tensor: Tensor) -> int:
    return int(torch.ops.mkldnn.data_ptr(tensor)) if tensor.is_mkldnn else tensor.data_ptr()
