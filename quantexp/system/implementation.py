"""From the text by which an option names its implementation to the thing itself."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def resolve(implementation: str) -> Any:
    """Return the module, or what stands in a module, that a dotted path of quantexp's own names."""
    try:
        return import_module(implementation)
    except ModuleNotFoundError as error:
        module, _, name = implementation.rpartition(".")
        if error.name != implementation or not module:
            raise
        return getattr(import_module(module), name)
