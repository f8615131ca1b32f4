"""The multiplying operators that a runtime with an exported file ran, and which layers they prove."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.inspection.watch import NAMES
from quantexp.results import Operator


@dataclass(frozen=True)
class Ran:
    """A multiplying node that ran: its operator, precision and multiply-accumulates, and the weights it multiplies.

    `macs` is None where they cannot be counted, such as in a layout whose shapes include padding.
    """

    operator: str
    precision: str
    macs: int | None
    weights: tuple[str, ...]


def operators(nodes: Sequence[Ran], examples: int, macs: int) -> tuple[Operator, ...]:
    """Return the operators of a call on `examples`, with their multiply-accumulates for one of them.

    Args:
        nodes: What ran.
        examples: The size of the batch.
        macs: The multiply-accumulates of the network for the batch. What the known nodes leave of it is shared by those
            whose own is unknown.
    """
    known = sum(node.macs or 0 for node in nodes)
    unknown = [node for node in nodes if node.macs is None]
    rest = max(0, macs - known) // max(1, len(unknown))
    calls: Counter[tuple[str, str]] = Counter()
    total: defaultdict[tuple[str, str], int] = defaultdict(int)
    for node in nodes:
        key = (node.operator, node.precision)
        calls[key] += 1
        total[key] += rest if node.macs is None else node.macs
    return tuple(Operator(*key, count, total[key] // examples) for key, count in calls.items())


def in_float(network: nn.Module, ran: Sequence[Ran], runtime: str) -> dict[str, str]:
    """Return the layers with int8 weights whose products did not run in int8, each with what ran instead.

    Args:
        network: The network that was exported.
        ran: What ran.
        runtime: The name of what ran it, for the reason.
    """
    proven = {weight for node in ran if node.precision == "int8" for weight in node.weights}
    others = {weight: node for node in ran if node.precision != "int8" for weight in node.weights}
    places: dict[str, str] = getattr(network, "weight_names", dict)()
    left = {}
    for held in held_weights(network):
        name = places.get(held.name, "")
        if NAMES.get(held.dtype) != "int8" or held.weight.dim() < 2 or name in proven:
            continue
        node = others.get(name)
        how = f"in its operator {node.operator} ({node.precision})" if node else "in no int8 operator that is known"
        left[held.name] = f"its weight is int8, but {runtime} multiplied {how}"
    return left
