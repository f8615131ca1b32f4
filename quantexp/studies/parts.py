"""The parts of a network that a study varies: layers, or modules with all layers in them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import accumulate

from quantexp.system.errors import QuantizationError


def parts_of(patterns: Sequence[str], layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the layers that each pattern matches or, if it matches none, the modules with their layers."""
    modules: dict[str, list[str]] = {}
    for layer in layers:
        for path in accumulate(layer.split(".")[:-1], "{}.{}".format):
            modules.setdefault(path, []).append(layer)
    found: dict[str, tuple[str, ...]] = {}
    for pattern in patterns or ["*"]:
        matched: dict[str, tuple[str, ...]] = {name: (name,) for name in layers if fnmatchcase(name, pattern)}
        matched = matched or {name: tuple(inside) for name, inside in modules.items() if fnmatchcase(name, pattern)}
        if not matched:
            listed = ", ".join(modules)
            raise QuantizationError(
                "study.layers must match quantized layers, or modules that contain some, "
                f"{pattern!r} matches none; the layers are {', '.join(layers)}"
                f"{f', the modules {listed}' if listed else ''}"
            )
        found |= matched
    return found
