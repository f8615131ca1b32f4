"""The context of all flows: the engine, filters for known warnings, tracing, and errors for networks that fail."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn
from torch.fx import config as tracing

from quantexp.config import ByLayer, Engine, Quant
from quantexp.quant.engine import use_engine
from quantexp.quant.flows import flow_of
from quantexp.state.copies import copied, to_run
from quantexp.system.errors import QuantexpError, QuantizationError
from quantexp.system.implementation import resolve

N = TypeVar("N", bound=nn.Module)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MOST_ROOTS = 8  # modules that are looked at to find the network
# torch warns that torch.ao moves to torchao, and its quantized tensors still use TypedStorage.
KNOWN_WARNINGS = (
    r"torch\.ao\.quantization is deprecated",
    r"TypedStorage is deprecated",
    r"_aminmax is deprecated",
    r"Please use quant_min and quant_max to specify the range for observers",
    r"reduce_range will be deprecated in a future version",
    r"torch\.quantize_per_",
    r"The input of maxpool2d is not quantized",  # after a layer that stays in float
    r"The tensor attributes? .* assigned during export",  # what LSTM keeps of its weights
    r"Default qconfig of oneDNN backend",  # quantexp has its own warning where the range is chosen
)


def working_copy(option: Quant, model: N) -> N:
    """Return a copy of `model` for a method to change; it shares the weights, unless a user's code might write them."""
    modules = [resolve(option.implementation), *([flow_of(option)] if isinstance(option, ByLayer) else [])]
    ours = all(getattr(module, "__name__", "").startswith("quantexp.") for module in modules)
    return to_run(model) if ours else copied(model)


@contextmanager
def working(engine: Engine | None) -> Iterator[None]:
    """Use `engine`, if any, ignore the known warnings of the flows, and trace without stack traces.

    For the first stack trace torch imports its compiler, which takes seconds.

    Raises:
        QuantizationError: If torch does not support the engine on this machine.
    """
    before = tracing.do_not_emit_stack_traces
    with use_engine(engine), without_known_warnings():
        tracing.do_not_emit_stack_traces = True
        try:
            yield
        finally:
            tracing.do_not_emit_stack_traces = before
            _forget_modules()


def _forget_modules() -> None:
    """Empty the cache of torch.ao that keeps each network which it prepared, with all its weights, as a key."""
    utils = sys.modules.get("torch.ao.quantization.fx.utils")
    if forget := getattr(getattr(utils, "assert_and_get_unique_device", None), "cache_clear", None):
        forget()


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Ignore the known warnings of the flows."""
    with warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=f".*{message}")
        yield


def with_numbers_as_padding(model: nn.Module) -> nn.Module:
    """Replace `same` and `valid` of convolutions by the numbers they mean, in place; kernels take numbers only.

    `same` stays where it means another number on each side.
    """
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS) and isinstance(module.padding, str):
            sizes = zip(module.dilation, module.kernel_size, strict=True)
            total = [dilation * (size - 1) if module.padding == "same" else 0 for dilation, size in sizes]
            if not any(count % 2 for count in total):
                module.padding = tuple(count // 2 for count in total)
    return model


class UnquantizableError(QuantizationError):
    """A flow or a method cannot quantize this network; what can is found by trying, and added to the message.

    `layer` is the name of the layer where it failed, empty if it is not known.
    """

    def __init__(self, message: str, layer: str = "") -> None:
        self.layer = layer
        super().__init__(message)


@contextmanager
def explain_failure(rule: str) -> Iterator[None]:
    """Convert an error of an API to one that states the `rule`, the layer where it failed and the reason.

    Raises:
        UnquantizableError: For all errors except those of quantexp and MemoryError.
    """
    try:
        yield
    except (QuantexpError, MemoryError):
        raise
    except Exception as error:  # tracing, fusing, calibrating and lowering can raise anything
        layer = _failed_layer(error)
        at = f" at {layer}" if layer else ""
        raise UnquantizableError(f"{rule}, but it failed{at} ({_reason(error)})", layer) from error


def _reason(error: Exception) -> str:
    """Return the message of an error in a line, without the graph or the hints that torch adds."""
    paragraph = str(error).strip().partition("\n\n")[0].partition("' with arguments")[0]
    return " ".join(f"{type(error).__name__}: {paragraph}".split())[:300]


def _failed_layer(error: Exception) -> str:
    """Return the name of the innermost module whose code raised the error, in the outermost one; empty if unknown."""
    modules = [
        found
        for frame, _ in traceback.walk_tb(error.__traceback__)
        for found in (frame.f_locals.get(name) for name in ("self", "mod", "module"))
        if isinstance(found, nn.Module)
    ]
    names = {}
    for root in modules[:MOST_ROOTS]:
        names = {id(module): name for name, module in root.named_modules()}
        if len(names) > 1:
            break
    found_names = [names[id(module)] for module in modules if names.get(id(module))]
    return found_names[-1].removeprefix("model.") if found_names else ""
