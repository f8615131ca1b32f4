"""What a network knows outside its state dict: numbers and tensors that are plain attributes of its modules.

Some layers of torch.ao have the scale and the zero point of their output there; a graph has the constants that it was
traced with; and a network of the user may have anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Number = int | float | bool
Numbers = dict[str, dict[str, Number]]
"""Numbers by the name of the module and of the attribute."""

MARK = ":"  # between the name of a module and that of an attribute; it is not in names of parameters


def numbers(model: nn.Module) -> Numbers:
    """Return the numbers that are attributes of the modules and not in their state."""
    found: Numbers = {}
    for name, module in model.named_modules():
        if own := {key: value for key, value in _attributes(module) if type(value) in (int, float, bool)}:
            found[name] = own
    return found


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that are plain attributes of the modules, by `module:attribute`."""
    return {
        f"{name}{MARK}{key}": value.detach()
        for name, module in model.named_modules()
        for key, value in _attributes(module)
        if isinstance(value, Tensor) and value.device.type == "cpu"
    }


def restore_numbers(model: nn.Module, stored: Mapping[str, Mapping[str, Number]]) -> None:
    """Set the numbers of `numbers`. Raises ValueError if one is no number, or no attribute of the network."""
    for name, own in stored.items():
        for key, value in own.items():
            if type(value) not in (int, float, bool):
                raise ValueError(f"{name}{MARK}{key} must be a number, got {value!r}")
            _set(model, name, key, value)


def restore_tensors(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Set the tensors of `tensors`. Raises ValueError if one is no attribute of the network."""
    for path, value in stored.items():
        name, _, key = path.partition(MARK)
        _set(model, name, key, value)


def _set(model: nn.Module, name: str, key: str, value: Number | Tensor) -> None:
    """Set an attribute of a module, which may lack it: some are made in the first call."""
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"the network has no module {name}, whose {key} was stored") from error
    before = module.__dict__.get(key, getattr(type(module), key, value))
    if before is not None and not isinstance(before, Tensor if isinstance(value, Tensor) else int | float):
        raise ValueError(f"{key} of {name or 'the network'} is no number or tensor, but one was stored")
    setattr(module, key, value)


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that may differ from those of a module that is built anew.

    The layers of torch.nn have none: what they learn is in their state. A private name is no state, but for the
    constants of a graph.
    """
    if isinstance(module, torch.jit.ScriptModule) or type(module).__module__.startswith("torch.nn.modules"):
        return
    in_state = module.state_dict(keep_vars=True).keys()
    for key, value in module.__dict__.items():
        constant = isinstance(value, Tensor) and key.startswith("_tensor_constant")
        if (constant or not key.startswith("_")) and key not in in_state and key != "training":
            yield key, value
