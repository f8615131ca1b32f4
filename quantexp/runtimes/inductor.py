"""How torch's compiler Inductor is set, for torch.compile and ahead of time, and what its errors say."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch._inductor.config as inductor
from torch._inductor.utils import fresh_cache

from quantexp.runtimes.lowering import Lowering
from quantexp.system.environment import compiler
from quantexp.system.errors import BenchmarkError

NOISY = (
    "torch.utils.cpp_extension",
    "torch.utils._pytree",
)  # warnings about CUDA and deprecation that do not matter here
LONGEST_REASON = 300  # characters


def require_compiler(runtime: str, repair: str) -> None:
    """Raise BenchmarkError if there is no C++ compiler, which `runtime` needs."""
    if compiler() is None:
        raise BenchmarkError(
            f"runtime={runtime} needs a C++ compiler, none was found; install one such as g++, or set $CXX to yours, "
            f"or {repair}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the files of the compilers in a folder that is deleted at the end, and their warnings away."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with fresh_cache(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch(ao)?\b")  # they concern only its developers
        yield


def settings(lowering: Lowering, *, max_autotune: bool, **more: Any) -> Any:
    """Return a context in which weights are frozen, int8 patterns become int8 kernels, and `lowering` sees the graph.

    Args:
        lowering: Records what code is generated from.
        max_autotune: Whether kernels are chosen by their speed.
        more: Further settings of Inductor by name.
    """
    from quantexp.quant.flows.x86_quantizer import quant_lift_up  # the import registers the patterns of int8

    return inductor.patch(
        {
            "freezing": True,
            "pre_grad_custom_pass": quant_lift_up,
            "_post_fusion_custom_pass": lowering,
            "max_autotune": max_autotune,
            "autotune_num_choices_displayed": 0,
            "max_autotune_report_choices_stats": False,
            **more,
        }
    )


def reason(error: Exception) -> str:
    """Return the message of an error of torch, without its hints and its stack."""
    lines = [line.strip() for line in str(error).splitlines()]
    explanations = [line.removeprefix("Explanation: ") for line in lines if line.startswith("Explanation: ")]
    if explanations:
        message = [lines[0], *explanations]
    else:  # the first paragraph
        message = list(itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, lines)))
    return " ".join(f"{type(error).__name__}: {' '.join(message)}".split())[:LONGEST_REASON]
