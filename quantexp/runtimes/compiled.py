"""torch.compile: a network compiled for one batch size, checked against the eager one."""

from __future__ import annotations

import copy
import logging
import time
from itertools import chain

import torch
from torch import nn

from quantexp.config import Compiled, Engine
from quantexp.quant.inspection.evidence import operators
from quantexp.results import Operator
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch

TOLERANCE = 1e-3  # between the outputs of both, as a share of the greatest; fused sums differ in their last bits


class CompiledNetwork:
    """A network compiled for one batch size.

    Attributes:
        network: The compiled network.
        seconds: What compiling took, with no cache of an earlier one.
        max_difference: Greatest difference of its outputs from the eager network's.
    """

    def __init__(self, network: nn.Module, reference: nn.Module, seconds: float, max_difference: float) -> None:
        self.network = network
        self.seconds = seconds
        self.max_difference = max_difference
        self._reference = reference

    def copied(self) -> nn.Module:
        """Move the weights elsewhere in memory; the compiled code reads them where they are."""
        with torch.inference_mode(False), torch.no_grad():  # code that was compiled for the one refuses the other
            for tensor in chain(self.network.parameters(), self.network.buffers()):
                tensor.data = tensor.data.clone()
        return self.network

    def operators(self, batch: Batch) -> tuple[Operator, ...]:
        """Return the multiplying operators that run on a batch."""
        return operators(self._reference, batch)


def prepare(runtime: Compiled, network: nn.Module, batch: Batch, engine: Engine | None) -> CompiledNetwork:
    """Compile a copy of `network` for batches like `batch`, and make sure that both agree on it.

    Raises:
        BenchmarkError: If it cannot be compiled here, or computes something else.
    """
    from torch._inductor.utils import fresh_cache

    torch.compiler.reset()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA, which nothing here needs
    candidate = copy.deepcopy(network)
    with fresh_cache(), torch.inference_mode():
        expected = network(*batch)
        candidate.compile(fullgraph=True, dynamic=False)
        started = time.perf_counter()
        try:
            found = candidate(*batch)
        except Exception as error:  # whatever the compiler and its C++ compiler stumble over
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise BenchmarkError(
                f"runtime compiled needs a network and a machine that torch.compile works on, it does not ({reason}); "
                "install a C++ compiler such as g++, or use runtime=eager and benchmark.runtimes=[]"
            ) from error
        seconds = time.perf_counter() - started
        difference = float((found - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise BenchmarkError(
            f"the compiled network must compute what the eager one does, to {allowed:.2g}, its outputs differ "
            f"by {difference:.2g}; use runtime=eager and benchmark.runtimes=[]"
        )
    return CompiledNetwork(candidate, network, seconds, difference)
