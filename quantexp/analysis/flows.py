"""Flows without torch.ao, each paired with the torch.ao flow that it can replace.

Both quantize the same float network with the same method, so that they can be compared on the same examples and through
the float network that each of them was timed against.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from quantexp.analysis.settings import LEFT_OPEN
from quantexp.analysis.variants import Network, Variant
from quantexp.config import OVER_TORCH_AO, Engine

FLOW, ENGINE = "quant.flow", "quant.engine"


def replacements(network: Network) -> Iterator[tuple[Variant, Variant]]:
    """Yield the pairs (variant of a torch.ao flow, variant of the same method in a flow without torch.ao)."""
    alike: dict[object, dict[str, Variant]] = defaultdict(dict)
    for variant in network.variants:
        settings = dict(variant.settings)
        others = tuple(pair for pair in variant.settings if pair[0] not in (FLOW, ENGINE))
        if settings.get(ENGINE, LEFT_OPEN) in (LEFT_OPEN, Engine.x86):  # the default engine of a flow
            alike[variant.quant, variant.precision, others][settings.get(FLOW, "")] = variant
    for flows in alike.values():
        baseline = next((flows[flow] for flow in OVER_TORCH_AO if flow in flows), None)
        if baseline:
            yield from ((baseline, found) for flow, found in flows.items() if flow and flow not in OVER_TORCH_AO)


def flow(variant: Variant) -> str:
    """Return the flow of a variant."""
    return dict(variant.settings)[FLOW]
