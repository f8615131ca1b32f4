"""A network compiled with torch.compile for one batch size: generated code and its constants.

The weights are frozen: they are constants of the generated module, in the form that its kernels need. A program must
run in inference mode, on tensors made in inference mode, and with the threads that it was compiled with. In any other
call torch would silently compile again, without frozen weights; here that is an error. The same happens after
quantizing or exporting another network, because torch then forgets its programs; so that must come first.
"""

from __future__ import annotations

import functools
import sys
import time
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, fx
from torch._dynamo.eval_frame import remove_from_cache
from torch._dynamo.exc import ShortenTraceback
from torch._inductor.compile_fx import compile_fx, compile_fx_inner

from quantexp.quant.inspection.watch import Watch
from quantexp.runtimes.inductor import quiet, settings
from quantexp.runtimes.lowering import Lowering
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch


class NotCompiledForError(BenchmarkError, ShortenTraceback):
    """A program is called in a way it was not compiled for. A subclass of a torch error, which torch passes on."""

    def __init__(self) -> None:
        super().__init__(first_useful_frame=None)

    def __str__(self) -> str:  # torch appends to the message
        return (
            "a compiled network must be called as it was compiled: with the same batch size and threads, in inference "
            "mode, on tensors that were made in it, and before another network is quantized; this call differs"
        )


class Program:
    """A network compiled for batches of one size.

    Attributes:
        function: The result of torch.compile, called as `function(*batch)`.
        seconds: The time of the compilation, without a cache and without the start of the compiler.
        lowering: The products in the graph that its code was generated from.
    """

    def __init__(self, network: Callable[..., Any], batch: Batch, *, max_autotune: bool = False) -> None:
        """Compile the network. The compilers of torch and of the system can raise any error."""
        parts: list[Any] = []
        entry = _with_own_code(network)
        self.lowering = Lowering()
        compiling = settings(self.lowering, max_autotune=max_autotune)
        self.function, self.seconds = _compiled(entry, batch, compiling, parts)
        ((self._part, packed),) = parts
        parts.clear()  # torch keeps a reference to the backend, and so to this list
        self._constants = _module(self._part)
        self._first = {name: value for name, value in self._constants.items() if isinstance(value, Tensor)}
        self._plain = {id(tensor): (plain, examples) for tensor, plain, examples in packed}
        self._packed = [tensor for tensor, *_ in packed]  # keep them alive, so that their ids stay unique
        weakref.finalize(self, _forget, entry.__code__, self._constants)

    def move(self) -> None:
        """Move the constants to other addresses in memory; the generated code looks them up by name in every call."""
        with torch.inference_mode():
            for name, value in self._first.items():
                self._constants[name] = self._copy(value)

    def watch(self, batch: Batch) -> Watch:
        """Run the program once and return its multiplying operators.

        The watch is set inside the generated code, because torch does not run compiled code under a dispatch mode.
        """
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
        """Return the memory address of each constant."""
        return {name: _address(self._constants[name]) for name in self._first}

    def _copy(self, value: Tensor) -> Tensor:
        if plain := self._plain.get(id(value)):
            # Weights that MKL packed depend on their address: a plain copy gives wrong results or crashes.
            packed: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(*plain)
            return packed
        return value.clone()


def _compiled(
    entry: types.FunctionType, batch: Batch, compiling: Any, parts: list[Any]
) -> tuple[Callable[..., Any], float]:
    """Return the compiled function and the seconds of the compilation; append the generated code to `parts`."""
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

    function = torch.compile(entry, backend=backend, fullgraph=True, dynamic=False)
    failure: Exception | None = None
    with quiet(), torch.inference_mode():
        try:
            _start_compiler()
            started = time.perf_counter()
            with compiling, torch._dynamo.config.patch(allow_rnn=True):
                function(*batch)
            seconds = time.perf_counter() - started
        except Exception as error:  # raised below, since otherwise the folder of the cache is not deleted
            failure = error
    if failure is not None:
        raise failure
    sealed = True
    return function, seconds


@functools.cache
def _start_compiler() -> None:
    """Compile a trivial function, so that the start of the compiler does not count as compilation of a network."""
    entry = _with_own_code(lambda x: x + 1)
    torch.compile(entry, dynamic=False)(torch.zeros(8))
    remove_from_cache(entry)


def _with_own_code(network: Callable[..., Any]) -> types.FunctionType:
    """Return a function that has a separate code object and separate globals.

    Torch stores up to 8 programs at the code object of a function, searches all of them in each call, and also uses its
    globals.
    """

    def run(*batch: Tensor) -> Any:
        return network(*batch)

    return types.FunctionType(run.__code__.replace(), dict(run.__globals__), "run", None, run.__closure__)


def _packed_by_mkl(graph: fx.GraphModule) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield each weight that MKL packed, with the plain weight and the batch size that it is packed for."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.mkl._mkl_linear:
            _, packed, plain, _, examples = node.args
            yield getattr(graph, packed.target), getattr(graph, plain.target), examples


def _module(part: Any) -> dict[str, Any]:
    """Return the globals of the generated module, which include its constants."""
    call = part.current_callable
    names: dict[str, Any] = getattr(call, "__func__", call).__globals__
    return names


def _forget(code: types.CodeType, names: dict[str, Any]) -> None:
    """Free a program and its constants, which torch and sys.modules still reference."""
    remove_from_cache(code)
    sys.modules.pop(names["__name__"], None)
    for name in [name for name, value in names.items() if isinstance(value, Tensor)]:
        del names[name]


def _address(tensor: Tensor) -> int:
    return int(torch.ops.mkldnn.data_ptr(tensor)) if tensor.is_mkldnn else tensor.data_ptr()
