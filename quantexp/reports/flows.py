"""The table of what one loses or gains by leaving torch.ao: a row for each method and flow without it."""

from __future__ import annotations

from quantexp.analysis.flows import flow, replacements
from quantexp.analysis.names import network_title, setup_names
from quantexp.analysis.quality import change_of
from quantexp.analysis.ratios import between
from quantexp.analysis.values import size_mb
from quantexp.analysis.variants import Variant, networks
from quantexp.reports.cells import ratio_text
from quantexp.reports.table import Table
from quantexp.results.sweep import SweepResult
from quantexp.results.text import size_text

MEANING = (
    "Gained and lost: test examples that only the flow that is taken, or only the one that is left gets right, by the "
    "exact McNemar test. Times as fast: against the flow that is left, by the paired speedups of both over float."
)


def leaving_table(sweep: SweepResult) -> Table | None:
    """Return a row for each method and flow without torch.ao, None where no method has flows of both kinds."""
    found = networks(sweep)
    names = setup_names([network.setup for network in found])
    sizes = sorted({size for network in found for size in network.sizes})
    rows = [
        (
            network_title(network, names),
            *_cells(baseline, other),
            *(ratio_text(between(other, baseline, size)) for size in sizes),
        )
        for network in found
        for baseline, other in replacements(network)
    ]
    columns = ("Network", "Quantization", "dtype", "Left", "Taken", "Size (MB)", "Accuracy", "Change told")
    return Table((*columns, *(f"Times as fast B{size}" for size in sizes)), tuple(rows), (MEANING,)) if rows else None


def _cells(baseline: Variant, other: Variant) -> tuple[str, ...]:
    sizes = " to ".join(size_text(size_mb(variant).mean) for variant in (baseline, other))
    change = change_of(baseline, other)
    said = (str(change), change.verdict) if change else ("", "")
    return baseline.quant, baseline.precision, flow(baseline), flow(other), sizes, *said
