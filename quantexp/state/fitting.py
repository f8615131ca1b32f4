"""How a state dict of a user is fitted to a network: its names, tied tensors, values, and why it does not fit.

Names may have a prefix, as `module.` of DistributedDataParallel, or parts that wrappers put in, as `_orig_mod` of
torch.compile. The rest is done by torch, which takes missing counters of batch normalisation and old names of weight
norm. All that was changed is returned in words, and what does not fit is an error with the likely cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.state.misfit import misfit
from quantexp.system.errors import TrainingError

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # parts of names that torch puts in
MODULES = ("module", "model", "net", "network")  # parts of prefixes beside which other tensors are of no interest
PIECE = 2**17  # elements that are checked at once
EXTRA_STATE = "_extra_state"  # the end of names of what modules keep beside tensors


def fit(model: nn.Module, state: Mapping[str, Any], source: str) -> list[str]:
    """Fill `model` with a state dict, and return what was changed to make it fit, in words.

    Args:
        model: A new network; after an error its weights are not defined.
        state: Tensors by name; other values only under names that end in `_extra_state`.
        source: Names the state dict in errors.

    Raises:
        TrainingError: If names, shapes or values do not fit.
    """
    own = model.state_dict()
    named, notes = _renamed(state, own)
    notes += _tie(named, own, source)
    named = {name: value for name, value in named.items() if name in own or not name.endswith(EXTRA_STATE)}
    ours, theirs = _shapes(own), _shapes(named)
    if any(ours[name] != theirs[name] for name in ours.keys() & theirs.keys()):
        raise misfit(source, ours, theirs)
    for name, tensor in named.items():
        if name in theirs and (fault := _fault(tensor, own.get(name))):
            raise TrainingError(
                f"{source}: weights must be plain tensors of finite floating-point numbers, {name} is not: {fault}; "
                "save the float32 weights of the trained network"
            )
    try:
        found = model.load_state_dict(named, strict=False)
    except Exception as error:  # hooks that translate old names and set_extra_state can raise anything
        raise misfit(source, ours, theirs, " ".join(f"{type(error).__name__}: {error}".split())[:300]) from error
    missing = [name for name in found.missing_keys if not name.endswith(EXTRA_STATE)]
    if missing or found.unexpected_keys:
        taken = ours.keys() - missing  # with those that torch filled itself
        theirs = {name: shape for name, shape in theirs.items() if name in ours or name in found.unexpected_keys}
        raise misfit(source, ours, {**{name: ours[name] for name in taken}, **theirs})
    if without := len(found.missing_keys):
        notes.append(f"{without} modules keep the extra state that they were built with")
    return notes


def _renamed(state: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the state under the names of the network, as far as a prefix or wrappers explain the difference."""
    notes, named = [], dict(state)
    for wrapper in WRAPPERS:
        if not _has(own, wrapper) and _has(named, wrapper):
            named = {".".join(part for part in name.split(".") if part != wrapper): named[name] for name in named}
            notes.append(f"names without `{wrapper}.`")
    if prefix := _prefix(named, own):
        notes.append(f"names without `{prefix}`")
        inside = {name: value for name, value in named.items() if name.startswith(prefix)}
        if (outside := len(named) - len(inside)) and _is_of_wrappers(prefix):
            notes.append(f"{outside} of {len(named)} tensors are not used, their names do not begin with `{prefix}`")
            named = inside
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    elif prefix := _prefix(own, named):
        notes.append(f"names with `{prefix}` in front")
        named = {prefix + name: value for name, value in named.items()}
    return named, notes


def _has(names: Iterable[str], part: str) -> bool:
    return any(part in name.split(".") for name in names)


def _is_of_wrappers(prefix: str) -> bool:
    return all(part in MODULES for part in prefix.removesuffix(".").split("."))


def _prefix(long: Mapping[str, Any], short: Mapping[str, Any]) -> str:
    """Return what stands before the names of `short` in `long`; empty if that is nothing or does not explain them.

    At least half of the names in `short` must be in `long` with the prefix: then a network that does not fit is
    still compared name by name. Of several prefixes, the one with the most equal shapes is taken.
    """
    for name in sorted(short, key=len, reverse=True):  # a long name is rarely part of another one by chance
        if found := {known.removesuffix(name) for known in long if known == name or known.endswith(f".{name}")}:
            break
    else:
        return ""

    def fits(prefix: str) -> tuple[int, int, bool, str]:
        names = [name for name in short if prefix + name in long]
        alike = sum(_shape(long[prefix + name]) == _shape(short[name]) for name in names)
        return len(names), alike, _is_of_wrappers(prefix), prefix

    best = max(found, key=fits)
    return best if 2 * fits(best)[0] >= len(short) else ""


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _tie(named: dict[str, Any], own: Mapping[str, Any], source: str) -> list[str]:
    """Add the names that are missing because they are tied: several names of one tensor in the network.

    Files of safetensors hold a tied tensor once. Raises TrainingError if the file has other values for each name.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in own.items():
        if isinstance(tensor, Tensor) and tensor.numel():
            place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            groups.setdefault(place, []).append(name)
    added = 0
    for names in groups.values():
        first, *others = [name for name in names if name in named] or [""]
        for other in others:
            if named[first].shape == named[other].shape and not torch.equal(named[first], named[other]):
                raise TrainingError(
                    f"{source} does not fit the network: {first} and {other} are tied, one tensor with two names, and "
                    "have different values in the file; use a network that does not tie them"
                )
        if first and len(names) > 1:
            missing = [name for name in names if name not in named]
            named.update((name, named[first]) for name in missing)
            added += len(missing)
    return [f"{added} tied tensor{'s' * (added != 1)} that the file holds once"] if added else []


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and not name.endswith(EXTRA_STATE)
    }


def _fault(tensor: Tensor, own: Tensor | None) -> str:
    """Return what is wrong with a tensor that takes the place of `own`, None if that is not known; empty if nothing."""
    if tensor.is_quantized or tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return f"it is {'quantized' if tensor.is_quantized else f'of layout {tensor.layout} on {tensor.device}'}"
    dtype = torch.float32 if own is None else own.dtype
    if not tensor.is_floating_point():
        return "" if tensor.dtype is dtype else f"it is {tensor.dtype}, the network holds {dtype}"
    if dtype.is_floating_point and all(bool(torch.isfinite(part.to(dtype)).all()) for part in _pieces(tensor)):
        return ""
    cast = tensor.to(dtype)
    if not dtype.is_floating_point:  # a counter that was saved as a float
        whole = bool((cast.to(tensor.dtype) == tensor).all())
        return "" if whole else f"it is {tensor.dtype}, the network holds {dtype}"
    wrong = ~torch.isfinite(cast)
    if own is not None:
        wrong &= ~(torch.isinf(own) & (own == tensor))  # the network has the same infinity there, as in a mask
    if not bool(wrong.any()):
        return ""
    if bool(torch.isfinite(tensor[wrong]).any()):
        largest = tensor[torch.isfinite(tensor)].abs().max().item()
        return f"its values go up to {largest:.3g}, beyond the range of {dtype}"
    if bool(torch.isnan(tensor).any()):
        return "it has NaN"
    return "it has infinities where the network has none"


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """Return the elements in small pieces: what is computed of a whole tensor can take more memory than the tensor."""
    return torch.split(tensor.flatten(), PIECE)
