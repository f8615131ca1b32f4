"""Resolve the text by which an option names its implementation."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def resolve(implementation: str) -> Any:
    """Return the module, or the attribute of a module, that a dotted path names."""
    try:
        return import_module(implementation)
    except ModuleNotFoundError as error:
        module, _, name = implementation.rpartition(".")
        if error.name != implementation or not module:
            raise
        return getattr(import_module(module), name)
