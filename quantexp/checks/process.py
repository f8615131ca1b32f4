"""Quantizing a network must change neither the float network nor how this process computes.

The float network is measured in the same process. If a method changes a global setting of torch, such as the precision
of float32 products, or registers a pass of the compiler, the float network is no longer what it was.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import config as tracing

from quantexp.results.text import listed
from quantexp.system.errors import CheckError
from quantexp.tasks.inputs import Batch

COMPILER = ("torch._inductor.config", "torch._dynamo.config")  # with the custom passes of the compiler
REGISTRIES = tuple(f"torch._inductor.fx_passes.{name}" for name in ("pre_grad", "joint_graph", "post_grad"))
PASS = "PatternMatcherPass"  # the class of a list of patterns
NAMED = 5  # changes in a message
LONGEST = 60  # characters of a value in a message
DENORMAL = 1e-310  # as float64; 0 where such numbers are flushed


@dataclass(frozen=True)
class _Setting:
    """A setting of torch: how to read it, and how to set it."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]


def _attribute(owner: Any, name: str) -> _Setting:
    return _Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


_backends: Any = torch.backends  # whose parts mypy does not know
SETTINGS: Mapping[str, _Setting] = {
    "torch.get_float32_matmul_precision()": _Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "torch.get_default_dtype()": _Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch.get_default_device()": _Setting(torch.get_default_device, torch.set_default_device),
    "torch.is_grad_enabled()": _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.is_autocast_enabled('cpu')": _Setting(
        lambda: torch.is_autocast_enabled("cpu"), lambda value: torch.set_autocast_enabled("cpu", value)
    ),
    "torch.get_num_threads()": _Setting(torch.get_num_threads, torch.set_num_threads),
    "torch.use_deterministic_algorithms()": _Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _set_deterministic,
    ),
    "torch.set_flush_denormal()": _Setting(
        lambda: not bool(torch.tensor(DENORMAL, dtype=torch.float64) * 1), torch.set_flush_denormal
    ),
    "torch.backends.mha.get_fastpath_enabled()": _Setting(
        torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled
    ),
    "torch.backends.quantized.engine": _attribute(_backends.quantized, "engine"),
    "torch.backends.mkldnn.enabled": _attribute(_backends.mkldnn, "enabled"),
    "torch.backends.mkldnn.deterministic": _attribute(_backends.mkldnn, "deterministic"),
    "torch.backends.fp32_precision": _attribute(_backends, "fp32_precision"),
    "torch.backends.mkldnn.matmul.fp32_precision": _attribute(_backends.mkldnn.matmul, "fp32_precision"),
    "torch.backends.mkldnn.conv.fp32_precision": _attribute(_backends.mkldnn.conv, "fp32_precision"),
    "torch.backends.mkldnn.rnn.fp32_precision": _attribute(_backends.mkldnn.rnn, "fp32_precision"),
    "torch.backends.cuda.matmul.fp32_precision": _attribute(_backends.cuda.matmul, "fp32_precision"),
    "torch.backends.cudnn.enabled": _attribute(_backends.cudnn, "enabled"),
    "torch.backends.cudnn.benchmark": _attribute(_backends.cudnn, "benchmark"),
    "torch.backends.cudnn.deterministic": _attribute(_backends.cudnn, "deterministic"),
    "torch.fx.config.do_not_emit_stack_traces": _attribute(tracing, "do_not_emit_stack_traces"),
}


@contextmanager
def unchanged(method: str, network: nn.Module, batch: Batch) -> Iterator[None]:
    """Check that what runs in the context changes neither settings of torch nor the float network.

    Settings that were changed are set back in any case.

    Args:
        method: Who is responsible, as the user wrote it: `quant=static quant.flow=fx`.
        network: The float network in evaluation mode.
        batch: Inputs for which its outputs must stay equal, bit by bit.

    Raises:
        CheckError: If something changed; the message names it.
    """
    outputs = _outputs(network, batch)  # first, since a network may count its calls
    settings, registered, state = _read(), _registered(), _state(network)
    try:
        yield
    finally:
        changed = _restored(settings)
    patterns, parts = _registered(), _state(network)
    changed += [f"the patterns in {name}" for name, count in registered.items() if patterns.get(name) != count]
    changed += [f"{name} of the float network" for name in {**state, **parts} if state.get(name) != parts.get(name)]
    if not changed and outputs is not None and _outputs(network, batch) not in (outputs, None):
        changed = ["the outputs of the float network, with equal weights and settings"]
    if changed:
        raise CheckError(
            "process",
            "quantizing must change neither the float network nor how this process computes; "
            f"{method} changed {listed(changed, NAMED)}: a method works on a copy of the network and sets back what it "
            "sets",
        )


def _read() -> dict[str, Any]:
    """Return the settings by name; those of the compiler only if it is imported, which takes seconds."""
    values = {name: setting.read() for name, setting in SETTINGS.items()}
    for module in COMPILER:
        if (config := sys.modules.get(module)) is not None:
            for name in (name for name, entry in config._config.items() if not getattr(entry, "deprecated", False)):
                values[f"{module}.{name}"] = _kept(getattr(config, name))
    return values


def _registered() -> dict[str, int]:
    """Return the patterns that the compiler replaces in every network, counted by list; those of torch itself too.

    Patterns of freezing are left out: lowering registers its own there, and all of them need a dequantize.
    """
    found: dict[str, int] = {}
    for module in REGISTRIES:
        passes = sys.modules.get(module)
        ready = getattr(getattr(passes, "lazy_init", None), "cache_info", None)
        if ready is None or not ready().currsize:
            continue  # torch registers its own when it compiles for the first time
        for name, value in vars(passes).items():
            for index, one in enumerate(value if isinstance(value, list) else [value]):
                if type(one).__name__ == PASS:
                    found[f"{module}.{name}[{index}]"] = sum(len(entries) for entries in one.patterns.values())
    return found


def _kept(value: Any) -> Any:
    """Return a copy of a list or dict, which can be changed in place."""
    return copy.copy(value) if isinstance(value, list | dict | set) else value


def _restored(before: Mapping[str, Any]) -> list[str]:
    """Set back all settings that differ from those before, and return which and how."""
    changed = []
    for name, now in _read().items():
        was = before[name] if name in before else _default(name, now)
        if now is was or now == was:
            continue
        changed.append(f"{name} ({_shown(was)} -> {_shown(now)})")
        if name in SETTINGS:
            SETTINGS[name].write(was)
        else:
            config, attribute = _parts(name)
            setattr(config, attribute, was)
    return changed


def _default(name: str, now: Any) -> Any:
    """Return the default of a setting of the compiler, which was imported meanwhile; `now` if nothing has set it."""
    config, attribute = _parts(name)
    return now if config._is_default(attribute) else config._config[attribute].default


def _parts(name: str) -> tuple[Any, str]:
    """Return the module of a setting of the compiler, and its name there."""
    module = next(module for module in COMPILER if name.startswith(f"{module}."))
    return sys.modules[module], name.removeprefix(f"{module}.")


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _state(network: nn.Module) -> dict[str, Any]:
    """Return the mode and a digest of each parameter and buffer of a network, and its hooks."""
    found: dict[str, Any] = {}
    for name, module in network.named_modules():
        place = name or "the network"
        found[f"the mode of {place}"] = module.training
        found[f"the class of {place}"] = type(module)
        found[f"the hooks of {place}"] = (*module._forward_pre_hooks, *module._forward_hooks)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        found[name] = _digest(tensor)
    return found


def _digest(tensor: Tensor) -> tuple[Any, ...]:
    dense = tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()
    values = dense.contiguous().flatten().view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), hashlib.blake2b(values.numpy().data, digest_size=16).digest()


@torch.no_grad()
def _outputs(network: nn.Module, batch: Batch) -> tuple[Any, ...] | None:
    """Return a digest of the outputs; None if two calls differ, as in a network that is random."""
    first, second = (_digest(network(*batch)) for _ in range(2))
    return first if first == second else None
