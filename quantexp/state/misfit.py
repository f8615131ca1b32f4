"""Why a state dict does not fit a network: both sets of names, what differs, and the likely cause."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from quantexp.system.errors import TrainingError

SHOWN = 3  # names of each kind in a message, however many there are
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def misfit(source: str, ours: Shapes, theirs: Shapes, reason: str = "") -> TrainingError:
    """Return the error of a state dict with the shapes `theirs` for a network with the shapes `ours`.

    Args:
        source: Names the state dict.
        ours: The shape of each tensor of the network, by name.
        theirs: The shape of each tensor of the state dict, by name.
        reason: What torch said, if it refused the state dict.
    """
    missing = [name for name in ours if name not in theirs]
    unexpected = [name for name in theirs if name not in ours]
    other = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    parts = [
        _some("other shapes", [f"{name}: expected {ours[name]}, found {theirs[name]}" for name in other]),
        _some("only in the network", [f"{name} {ours[name]}" for name in missing]),
        _some("only in the file", [f"{name} {theirs[name]}" for name in unexpected]),
        reason,
    ]
    cause, repair = _cause(ours, theirs, missing, unexpected, other)
    counts = f"the network has {len(ours)} tensors, the file {len(theirs)}"
    differing = "; ".join(part for part in parts if part)
    return TrainingError(f"{source} does not fit the network: {cause} ({counts}; {differing}); {repair}")


def _cause(
    ours: Shapes, theirs: Shapes, missing: Collection[str], unexpected: Collection[str], other: Collection[str]
) -> tuple[str, str]:
    """Return the likely cause and the repair."""
    same = "use the model and task that it was trained with"
    if any(name.rpartition(".")[2] in ("zero_point", "_packed_params") for name in unexpected):
        return "it is of a quantized network", "give the weights of the float network"
    if missing and len(missing) == len(ours):
        if sorted(ours.values()) == sorted(theirs.values()):
            return "it has tensors of the same shapes under other names", "rename the tensors in the file"
        return "it is of another network, no name is in both", same
    if missing or unexpected:
        return _cause_of_names(missing, unexpected), same
    return _cause_of_shapes(ours, theirs, other), same


def _cause_of_names(missing: Collection[str], unexpected: Collection[str]) -> str:
    if any("parametrizations." in name for name in (*missing, *unexpected)):
        return "its weights are parametrized in another way, as by weight norm"
    if missing and unexpected:
        return "it is of another network, or of another version of this one"
    if missing:
        return "it is of a smaller network, or of a part of this one"
    return "it is of a larger network"


def _cause_of_shapes(ours: Shapes, theirs: Shapes, other: Collection[str]) -> str:
    """Return the cause of shapes that differ under equal names.

    Another width of a layer changes the next layer too; only outputs and inputs of the network change one layer alone.
    """
    pairs = [(theirs[name], ours[name]) for name in other]
    if any(len(one) != len(two) for one, two in pairs):
        return "it has layers of other kinds under the same names"
    if len({name.rpartition(".")[0] for name in other}) == 1:
        layer, last = next(iter(other)).rpartition(".")[0], list(ours)[-1].rpartition(".")[0]
        if all(one[1:] == two[1:] for one, two in pairs):
            what = "classes" if layer == last else f"outputs or tokens in {layer}"
            return f"it is of a network with {pairs[0][0][0]} {what}, this one has {pairs[0][1][0]}"
        if all(one[:1] + one[2:] == two[:1] + two[2:] for one, two in pairs):
            return f"it is of a network that takes {pairs[0][0][1]} inputs, this one takes {pairs[0][1][1]}"
    return "it is of a network with the same layers in other sizes"


def _some(title: str, items: list[str]) -> str:
    """Return `title: a, b, c and 5 more`; empty without items."""
    if not items:
        return ""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{title}: {', '.join(items[:SHOWN])}{more}"
