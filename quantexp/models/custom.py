"""A network of the user's own, found by the name of its class and built with what the task tells.

To import a module is to run it: only names that the user typed, or has said to trust, come here. The
networks of quantexp itself are the exception.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from pathlib import Path

import torch
from torch import nn

from quantexp.config import Custom
from quantexp.system.errors import ConfigError

OURS = "quantexp.models."


def build(option: Custom, inputs: int, classes: int) -> nn.Module:
    """Build the network. Raises ConfigError if it cannot be built, or does not give one logit a class."""
    target = str(option.target)
    cls = find(target)
    try:
        network = cls(inputs=inputs, classes=classes, **option.arguments)
        with torch.no_grad():
            shape = tuple(network.eval()(torch.zeros(2, inputs)).shape)
    except Exception as error:  # the user's code raises whatever it likes
        call = ", ".join(
            [f"inputs={inputs}", f"classes={classes}", *(f"{k}={v!r}" for k, v in option.arguments.items())]
        )
        raise ConfigError(
            f"model.target={target} must build as {cls.__name__}({call}) and take (batch, inputs), it does not "
            f"({type(error).__name__}: {error}); correct the class or model.arguments"
        ) from error
    if shape != (2, classes):
        raise ConfigError(
            f"model.target={target} must turn (2, {inputs}) into (2, {classes}), one logit a class, got {shape}; "
            "correct the class"
        )
    return network.train()


def find(target: str) -> type[nn.Module]:
    """Import the class that `target` names, as package.module.Class. Raises ConfigError."""
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's code
        raise ConfigError(
            f"model.target={target} must be importable, {module_name} is not ({type(error).__name__}: {error}); "
            "install it, or start where it lies"
        ) from error
    cls = getattr(module, name, None)
    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        networks = sorted(key for key, value in vars(module).items() if _is_network_of(value, module_name))
        raise ConfigError(
            f"model.target={target} must name a torch.nn.Module, "
            f"{f'{name} is none' if hasattr(module, name) else f'there is no {name} in {module_name}'}; "
            f"it has {', '.join(networks) or 'no such class'}"
        )
    return cls


def is_ours(target: object) -> bool:
    """Whether `target` names a network of the installed quantexp, which may be built whoever asks for it."""
    return isinstance(target, str) and target.startswith(OURS) and find(target).__module__.startswith(OURS)


def source_digest(target: str) -> str:
    """Return a SHA-256 of the file that the class stands in, empty if it stands in none."""
    try:
        return hashlib.sha256(Path(inspect.getfile(find(target))).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""


def _is_network_of(value: object, module_name: str) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module_name
