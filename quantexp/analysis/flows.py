"""What one loses or gains by leaving torch.ao: the flows that do without it, each against the one that needs it.

Both quantize the same float network by the same method. Quality is compared on the same examples, over several seeds
seed by seed; latencies through the float network, with which each was timed in turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from quantexp.analysis.settings import LEFT_OPEN
from quantexp.analysis.variants import Network, Variant
from quantexp.config import OVER_TORCH_AO, Engine

FLOW, ENGINE = "quant.flow", "quant.engine"


def replacements(network: Network) -> Iterator[tuple[Variant, Variant]]:
    """Yield each variant that does without torch.ao behind the one of its method that it replaces."""
    alike: dict[object, dict[str, Variant]] = defaultdict(dict)
    for variant in network.variants:
        settings = dict(variant.settings)
        others = tuple(pair for pair in variant.settings if pair[0] not in (FLOW, ENGINE))
        if settings.get(ENGINE, LEFT_OPEN) in (LEFT_OPEN, Engine.x86):  # what a flow takes unless told
            alike[variant.quant, variant.precision, others][settings.get(FLOW, "")] = variant
    for flows in alike.values():
        baseline = next((flows[flow] for flow in OVER_TORCH_AO if flow in flows), None)
        if baseline:
            yield from ((baseline, found) for flow, found in flows.items() if flow and flow not in OVER_TORCH_AO)


def flow(variant: Variant) -> str:
    """Return the API that quantized a variant."""
    return dict(variant.settings)[FLOW]
