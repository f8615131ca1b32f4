"""Which layers a run quantizes: those that `quant.include` names, all if it is empty, and `quant.exclude` does not."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from quantexp.config import Selective, Static
from quantexp.quant.inspection.evidence import held_weights
from quantexp.system.errors import QuantizationError


def kept_in_float(option: Selective, model: nn.Module) -> dict[str, str]:
    """Return the layers of the float model that are not to be quantized, and why, by name.

    Raises:
        QuantizationError: If a pattern matches no layer, or no layer is left to quantize.
    """
    names = [one.name for one in held_weights(model)]
    for key, patterns in (("include", option.include), ("exclude", option.exclude)):
        _refuse_idle(key, patterns, names)
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


def dynamic_layers(option: Static, model: nn.Module) -> list[str]:
    """Return the layers of the float model that static quantization leaves to dynamic, by name.

    Raises:
        QuantizationError: If a pattern matches no Linear layer that is to be quantized.
    """
    kept = kept_in_float(option, model)
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear and name not in kept]
    _refuse_idle("dynamic", option.dynamic, linear)
    return [name for name in linear if _matches(name, option.dynamic)]


def _refuse_idle(key: str, patterns: list[str], names: list[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            which = "Linear layers that are quantized" if key == "dynamic" else "layers"
            raise QuantizationError(
                f"quant.{key} must match {which}, {pattern!r} matches none; the layers are {', '.join(names)}"
            )


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
