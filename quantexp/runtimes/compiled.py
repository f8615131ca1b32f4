"""The float model under `torch.compile`: checked against the eager one, then timed beside it."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from quantexp.system.errors import BenchmarkError

TOLERANCE = 1e-3  # between the logits of both, as a share of the greatest; fused sums differ in their last bits


class CompiledModel:
    """A float model compiled for one batch size. Can be timed in turns with others, like a Subject.

    Attributes:
        model: The compiled network.
        compile_seconds: What compiling took, with no cache of an earlier one.
        max_difference: Greatest difference of its logits from the eager model's.
    """

    def __init__(self, model: nn.Module, compile_seconds: float, max_difference: float) -> None:
        self.model = model
        self.compile_seconds = compile_seconds
        self.max_difference = max_difference

    def copied(self) -> nn.Module:
        """Move the weights elsewhere in memory; the compiled code reads them where they are."""
        with torch.inference_mode(False), torch.no_grad():  # code that was compiled for the one refuses the other
            for tensor in chain(self.model.parameters(), self.model.buffers()):
                tensor.data = tensor.data.clone()
        return self.model


@contextmanager
def compiled(model: nn.Module, inputs: Tensor) -> Iterator[CompiledModel]:
    """Compile a copy of `model` for batches like `inputs`, and make sure that both agree on them.

    Raises:
        BenchmarkError: If it cannot be compiled here, or computes something else.
    """
    from torch._inductor.utils import fresh_cache

    torch.compiler.reset()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA, which nothing here needs
    candidate = copy.deepcopy(model)
    with fresh_cache(), torch.inference_mode():
        expected = model(inputs)
        candidate.compile(fullgraph=True, dynamic=False)
        started = time.perf_counter()
        try:
            found = candidate(inputs)
        except Exception as error:  # whatever the compiler and its C++ compiler stumble over
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise BenchmarkError(
                f"benchmark.baselines=[eager,compiled] needs a model and a machine that torch.compile works on, "
                f"it does not ({reason}); install a C++ compiler such as g++, or leave compiled out"
            ) from error
        seconds = time.perf_counter() - started
        difference = float((found - expected).abs().max())
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:
            raise BenchmarkError(
                f"the compiled float model must compute what the eager one does, to {allowed:.2g}, its logits differ "
                f"by {difference:.2g}; leave compiled out of benchmark.baselines"
            )
        yield CompiledModel(candidate, seconds, difference)
