"""Which layers a run quantizes: those that `quant.include` names, all if it is empty, and `quant.exclude` does not."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from quantexp.config import Selective
from quantexp.errors import QuantizationError
from quantexp.quant.inspection import held_weights


def kept_in_float(option: Selective, model: nn.Module) -> dict[str, str]:
    """Return the layers of the float model that are not to be quantized, and why, by name.

    Raises:
        QuantizationError: If a pattern matches no layer, or no layer is left to quantize.
    """
    names = [one.name for one in held_weights(model)]
    for key, patterns in (("include", option.include), ("exclude", option.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise QuantizationError(
                    f"quant.{key} must match layers, {pattern!r} matches none; the layers are {', '.join(names)}"
                )
    kept = {}
    for name in names:
        if _matches(name, option.exclude):
            kept[name] = f"quant.exclude=[{','.join(option.exclude)}] names it"
        elif option.include and not _matches(name, option.include):
            kept[name] = f"quant.include=[{','.join(option.include)}] does not name it"
    if names and len(kept) == len(names):
        raise QuantizationError(
            "quant.include and quant.exclude must leave a layer to quantize, they leave none of "
            f"{', '.join(names)}; name fewer in quant.exclude"
        )
    return kept


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
