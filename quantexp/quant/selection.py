"""The layers that a run quantizes: those in `quant.include`, or all if it is empty, except those in `quant.exclude`."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from quantexp.config import Selective, Static
from quantexp.quant.inspection.layers import held_weights, is_computed
from quantexp.system.errors import QuantizationError

COMPUTED = "its weight is not a parameter, but computed in each call"


def kept_in_float(option: Selective, model: nn.Module) -> dict[str, str]:
    """Return the layers that stay in float, by name, with the reason: a choice of the user, or a computed weight.

    Raises:
        QuantizationError: If a pattern matches no layer, or no layer remains to be quantized.
    """
    layers = list(held_weights(model))
    names = [layer.name for layer in layers]
    for key, patterns in (("include", option.include), ("exclude", option.exclude)):
        _require_matches(key, patterns, names)
    kept = {}
    for name in names:
        if _matches(name, option.exclude):
            kept[name] = f"quant.exclude=[{','.join(option.exclude)}] includes it"
        elif option.include and not _matches(name, option.include):
            kept[name] = f"quant.include=[{','.join(option.include)}] does not include it"
    if names and len(kept) == len(names):
        raise QuantizationError(
            "quant.include and quant.exclude must select at least one layer, they select none of "
            f"{', '.join(names)}; exclude fewer layers"
        )
    computed = {layer.name: COMPUTED for layer in layers if layer.operand is None and is_computed(layer.module)}
    return computed | kept


def dynamic_layers(option: Static, model: nn.Module) -> list[str]:
    """Return the names of the layers that `quant=static` quantizes dynamically.

    Raises:
        QuantizationError: If a pattern matches no Linear layer that is quantized.
    """
    kept = kept_in_float(option, model)
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear and name not in kept]
    _require_matches("dynamic", option.dynamic, linear)
    return [name for name in linear if _matches(name, option.dynamic)]


def _require_matches(key: str, patterns: list[str], names: list[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            kind = "Linear layers that are quantized" if key == "dynamic" else "layers"
            raise QuantizationError(
                f"quant.{key} must match {kind}, {pattern!r} matches none; the layers are {', '.join(names)}"
            )


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
