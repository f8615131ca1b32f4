"""What one loses or gains by leaving torch.ao: the flows that do without it, each against the one that needs it.

Both quantize the same float model by the same method. Accuracy is compared on the same test examples, over several
seeds seed by seed; latencies through the float model, with which each was timed in turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from quantexp.analysis.ratios import between
from quantexp.analysis.seeds import CONFIDENCE, paired, spread
from quantexp.analysis.variants import LEFT_OPEN, Network, Variant, networks, setup_names
from quantexp.config import OVER_TORCH_AO, Engine
from quantexp.reports.networks import network_title
from quantexp.reports.table import Table
from quantexp.results import won_and_lost
from quantexp.results.sweep import SweepResult
from quantexp.results.text import size_text

FLOW, ENGINE = "quant.flow", "quant.engine"
MEANING = (
    "Won and lost: test examples that only the flow that is taken, or only the one that is left gets right, by the "
    "exact McNemar test. Times as fast: against the flow that is left, by the paired speedups of both over float."
)


def leaving_table(sweep: SweepResult) -> Table | None:
    """Return a row for each method and flow without torch.ao, None where no method has flows of both kinds."""
    found = networks(sweep)
    names = setup_names([one.setup for one in found])
    sizes = sorted({size for one in found for size in one.sizes})
    rows = [
        [network_title(network, names), *_cells(left, taken), *(_times(left, taken, size) for size in sizes)]
        for network in found
        for left, taken in _pairs(network)
    ]
    columns = ["Network", "Quantization", "dtype", "Left", "Taken", "Size (MB)", "Accuracy", "Change told"]
    columns += [f"Times as fast B{size}" for size in sizes]
    return Table(tuple(columns), tuple(map(tuple, rows)), (MEANING,)) if rows else None


def _pairs(network: Network) -> Iterator[tuple[Variant, Variant]]:
    """Yield each variant that does without torch.ao behind the one of its method that it replaces."""
    alike: dict[object, dict[str, Variant]] = defaultdict(dict)
    for one in network.variants:
        settings = dict(one.settings)
        others = tuple(pair for pair in one.settings if pair[0] not in (FLOW, ENGINE))
        if settings.get(ENGINE, LEFT_OPEN) in (LEFT_OPEN, Engine.x86):  # what a flow takes unless told
            alike[one.quant, one.precision, others][settings.get(FLOW, "")] = one
    for flows in alike.values():
        left = next((flows[flow] for flow in OVER_TORCH_AO if flow in flows), None)
        if left:
            yield from ((left, one) for flow, one in flows.items() if flow and flow not in OVER_TORCH_AO)


def _cells(left: Variant, taken: Variant) -> Sequence[str]:
    sizes = (spread([report.result.size_mb for report in one.reports.values()]).mean for one in (left, taken))
    changed = " to ".join(size_text(size) for size in sizes)
    return [
        left.quant,
        left.precision,
        *(dict(one.settings)[FLOW] for one in (left, taken)),
        changed,
        *_change(left, taken),
    ]


def _change(left: Variant, taken: Variant) -> tuple[str, str]:
    """Return the change of accuracy, and what is told of it."""
    if change := paired(taken.accuracies(), left.accuracies(), left.step):
        said = ("a gain" if change.mean > 0 else "a loss") if change.told else "none"
        return f"{100 * change.mean:+z.2f} points [{100 * change.low:+z.2f}, {100 * change.high:+z.2f}]", said
    reports = [(left.reports[seed], taken.reports[seed]) for seed in left.reports if seed in taken.reports]
    if len(reports) != 1:
        return "", ""
    from quantexp.statistics.paired import mcnemar  # imports torch

    ((before, after),) = reports
    if before.comparison is None or after.comparison is None:
        return "", ""
    won, lost = won_and_lost(before.comparison, after.comparison)
    said = ("a gain" if won > lost else "a loss") if mcnemar(won, lost) < 1 - CONFIDENCE else "none"
    return f"{100 * (won - lost) / after.data.evaluated:+z.2f} points: {won} won, {lost} lost", said


def _times(left: Variant, taken: Variant, size: int) -> str:
    ratio = between(taken, left, size)
    return f"{ratio} {ratio.verdict}" if ratio else ""
