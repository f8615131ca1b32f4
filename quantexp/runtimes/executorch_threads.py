"""The threads of ExecuTorch: one pool for the process, which all its programs share.

A program keeps the pool that it was loaded with, so that none may be left when the pool changes.
"""

from __future__ import annotations

import contextlib
import io
import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from quantexp.runtimes.pool import MOST_BESIDE, TASKS, beside
from quantexp.system.errors import BenchmarkError
from quantexp.system.extras import quietly

_loaded: weakref.WeakSet[Loaded] = weakref.WeakSet()
_checked: set[int] = set()  # the number of threads that the pool was found to have, empty before a check


class Loaded:
    """A program that is loaded from the bytes of a file, with `count` threads.

    `traced` programs record their events, which costs time.
    """

    def __init__(self, pte: bytes, count: int, *, traced: bool = False) -> None:
        use(count)
        self._pte, self._traced = pte, traced  # the runtime reads these bytes as long as it lives
        self.program: Any = None
        self.load()
        _loaded.add(self)

    def load(self) -> None:
        """Load the program, with its weights packed anew."""
        self.program = library()._load_for_executorch_from_buffer(self._pte, enable_etdump=self._traced)

    def __call__(self, batch: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs for a batch of contiguous tensors."""
        outputs: list[Tensor] = self.program.forward(batch)
        return outputs


def library() -> Any:
    """Return the bindings of the runtime."""
    with quietly():
        from executorch.extension.pybindings import portable_lib  # first: it loads what the other one needs
        from executorch.kernels import quantized  # noqa: F401 - quantize and dequantize outside of XNNPACK

    return portable_lib


def use(count: int) -> None:
    """Let the pool have `count` threads, the calling one included, and check that it has.

    Raises:
        BenchmarkError: If it has another number.
    """
    runtime = library()
    with contextlib.redirect_stderr(io.StringIO()):  # where the runtime writes about each new pool
        if count in _checked and runtime._threadpool_get_thread_count() == count:
            return
        _checked.clear()
        for program in _loaded:
            program.program = None  # it would use the pool that is deleted now
        runtime._unsafe_reset_threadpool(1)
        before = _ids()
        runtime._unsafe_reset_threadpool(count)
        made = 1 + len(_ids() - before)
        found = runtime._threadpool_get_thread_count()
        for program in _loaded:
            program.load()
    if found != count or (before and made != count):
        raise BenchmarkError(
            f"runtime=executorch must compute with {count} {'thread' if count == 1 else 'threads'}, "
            f"it has {found if found != count else made}; "
            "use benchmark.threads=1"
        )
    _checked.add(count)


def check_alone(program: Loaded, batch: Sequence[Tensor]) -> None:
    """Check that no other thread takes CPU time while the program runs. Raises BenchmarkError."""
    if (share := beside(lambda: program(batch))) > MOST_BESIDE:
        raise BenchmarkError(
            f"runtime=executorch must compute with 1 thread, others took {share:.0%} of its CPU time; use runtime=eager"
        )


def _ids() -> set[str]:
    """Return the ids of the threads that this process has; empty where they are unknown."""
    return {task.name for task in TASKS.iterdir()} if TASKS.is_dir() else set()
