"""AOTInductor: the network is exported for one batch size and compiled ahead of time to a library of machine code.

Only this process loads the library, from a folder that is deleted with the network. It is called without the wrapper of
torch in Python, which reads a description of inputs and outputs anew in each call. The library does not check what it
is given, and it computes with the threads that it was compiled for; both are checked here, before the clock starts.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import time
import weakref
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._inductor
from torch import Tensor, nn

from quantexp.config import Aot, Engine
from quantexp.quant.inspection.watch import Watch
from quantexp.results import Operator, Profile
from quantexp.runtimes.agreement import largest_difference
from quantexp.runtimes.generated import attributed
from quantexp.runtimes.inductor import quiet, reason, require_compiler, settings
from quantexp.runtimes.lowering import GENERATED, Lowering
from quantexp.runtimes.pool import MOST_BESIDE, beside
from quantexp.runtimes.prepared import Prepared
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch, size

log = logging.getLogger(__name__)

REPAIR = "use runtime=eager, and leave aot out of benchmark.runtimes"
TEAM = re.compile(r"#pragma omp parallel (?:for )?num_threads\((\d+)\)")  # in generated code


class Library:
    """A network compiled ahead of time, in a folder that is deleted with this object.

    A library is loaded from a folder, not from the package: of a package, each load stays in memory and on the disk
    until the process ends.

    Attributes:
        lowering: The products in its code.
        seconds: The time to export the network and to compile it, without a cache.
    """

    def __init__(self, network: nn.Module, batch: Batch, *, max_autotune: bool) -> None:
        """Compile the network. The compilers of torch and of the system can raise any error."""
        folder = tempfile.mkdtemp(prefix="quantexp-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.lowering = Lowering()
        failure: Exception | None = None
        started = time.perf_counter()
        with quiet(), torch.no_grad():
            try:
                exported = torch.export.export(network, batch)
                with settings(self.lowering, max_autotune=max_autotune, **_own_settings()):
                    package = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/network.pt2")
            except Exception as error:  # raised below, since otherwise the folder of the cache is not deleted
                failure = error
        if failure is not None:
            raise failure
        self.seconds = time.perf_counter() - started
        with zipfile.ZipFile(package) as archive:  # which this process has just written
            archive.extractall(folder)
        Path(package).unlink()
        self._folder = Path(folder) / "network"

    def load(self) -> Callable[..., Any]:
        """Return the function of the library, with the weights at addresses of their own."""
        loader: Any = torch._inductor.aoti_load_package(str(self._folder)).loader

        def run(*batch: Tensor) -> Any:
            return loader.run(list(batch))[0]

        return run

    def threads(self) -> set[int]:
        """Return the numbers of threads in the generated code; a library of kernels uses those of torch."""
        sources = (path.read_text(encoding="utf-8") for path in self._folder.rglob("*.cpp"))
        return {int(count) for source in sources for count in TEAM.findall(source)}


def _own_settings() -> dict[str, Any]:
    """Return the settings of Inductor that differ ahead of time.

    Headers that are compiled for the next time would stay. Threads are a number in the code: else with one thread for
    each core the code would have as many as OpenMP has, which need not be those of torch.
    """
    return {
        "aot_inductor.precompile_headers": False,
        "cpp.threads": torch.get_num_threads(),
        "cpp.dynamic_threads": False,
    }


@dataclass(frozen=True, kw_only=True)
class AotNetwork(Prepared):
    """A network compiled ahead of time for one batch size and number of threads.

    Attributes:
        library: The compiled library.
        function: Its function; it checks nothing.
        inputs: The shape and dtype of each input.
        threads: The threads that it computes with.
        batch_size: The batch size.
        seconds: The time of the export and of the compilation, without a cache.
        max_difference: The largest difference of its outputs from those of eager execution.
        ran: The multiplying operators in its code.
        in_float: Why layers with int8 weights run in float, by name.
    """

    library: Library
    function: Callable[..., Any]
    inputs: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    threads: int
    batch_size: int
    seconds: float
    max_difference: float = 0.0
    ran: tuple[Operator, ...] = ()
    in_float: Mapping[str, str] = field(default_factory=dict)

    def network(self, *batch: Tensor) -> Any:
        """Return the outputs for a batch."""
        return self.function(*self.given(batch))

    @property
    def call(self) -> Callable[..., Any]:
        """The function of the library, called with what `given` returns."""
        return self.function

    def given(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the batch as the library takes it. Raises BenchmarkError if it is not made for this batch."""
        inputs = tuple((tuple(tensor.shape), tensor.dtype) for tensor in batch)
        if inputs != self.inputs or torch.get_num_threads() != self.threads:
            raise BenchmarkError(
                f"a network that is compiled ahead of time must be called with the inputs and threads that it was "
                f"compiled for, {self.inputs} and {self.threads}; got {inputs} and {torch.get_num_threads()}"
            )
        return tuple(tensor.contiguous() for tensor in batch)

    def copied(self) -> Callable[..., Any]:
        """Load the library again, with the weights at other addresses in memory."""
        return self.library.load()

    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators in the code that runs."""
        return self.ran

    def profile(self, batch: Batch) -> Profile:
        """Return no shares: a library calls its kernels itself, where no profiler of torch sees them."""
        return Profile(self.batch_size, ())


def require(runtime: Aot) -> None:
    """Check that there is a C++ compiler. Raises BenchmarkError."""
    require_compiler(runtime.name, REPAIR)


def prepare(runtime: Aot, network: nn.Module, batch: Batch, engine: Engine | None) -> AotNetwork:
    """Compile `network` for batches like `batch`, and check that the outputs are the same as in eager execution.

    The caller sets the threads first: the library runs with the threads that it was compiled with. Afterwards, torch
    has forgotten what it compiled with torch.compile, so this must come first.

    Raises:
        BenchmarkError: If it cannot be compiled on this machine, its threads are others, or its outputs differ.
    """
    require(runtime)
    batch, count = tuple(tensor.contiguous() for tensor in batch), torch.get_num_threads()
    eager = Watch()
    with torch.no_grad():
        with eager:
            network(*batch)
        expected = network(*batch)
    try:
        library = Library(network, batch, max_autotune=runtime.max_autotune)
        call = library.load()
    except MemoryError:
        raise
    except Exception as error:  # the compilers can raise anything
        rule = f"runtime={runtime.name} needs a network that torch can export and compile ahead of time"
        raise BenchmarkError(f"{rule}, but it failed ({reason(error)}); {REPAIR}") from error
    log.info("compile   ahead of time for batches of %d: %.1f s", size(batch), library.seconds)
    ran = attributed((library.lowering.kernels, library.lowering.templates), eager, size(batch), GENERATED)
    with torch.inference_mode():
        found, precisions = call(*batch), [operator.precision for operator in ran]
        difference = largest_difference(
            "a network that is compiled ahead of time", lambda: network(*batch), expected, found, precisions, REPAIR
        )
        _check_threads(runtime, library, count, lambda: call(*batch))
    return AotNetwork(
        library=library,
        function=call,
        inputs=tuple((tuple(tensor.shape), tensor.dtype) for tensor in batch),
        threads=count,
        batch_size=size(batch),
        seconds=library.seconds,
        max_difference=difference,
        ran=ran,
        in_float=library.lowering.in_float(network),
    )


def _check_threads(runtime: Aot, library: Library, count: int, call: Callable[[], object]) -> None:
    """Raise BenchmarkError if the library computes with another number of threads than `count`."""
    if others := library.threads() - {count}:
        raise BenchmarkError(
            f"runtime={runtime.name} must compute with {count} threads, its code has {max(others)}; use runtime=eager"
        )
    if count == 1 and (share := beside(call)) > MOST_BESIDE:
        raise BenchmarkError(
            f"runtime={runtime.name} must compute with 1 thread, others took {share:.0%} of its CPU time; "
            "use runtime=eager"
        )
