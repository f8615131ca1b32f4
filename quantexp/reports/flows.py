"""The table of the flows without torch.ao, each compared with a torch.ao flow."""

from __future__ import annotations

from quantexp.analysis.flows import flow, replacements
from quantexp.analysis.names import network_title, setup_names
from quantexp.analysis.quality import change_of
from quantexp.analysis.ratios import between
from quantexp.analysis.values import size_mb
from quantexp.analysis.variants import Variant, networks
from quantexp.reports.cells import ratio_text, significance
from quantexp.reports.table import Table
from quantexp.results.sweep import SweepResult
from quantexp.results.text import size_text

MEANING = (
    "Accuracy: change from baseline to candidate, and the test examples that only the candidate (+) or only the "
    "baseline (-) gets right, by the exact McNemar test. Speedup: candidate over baseline, from the paired speedups of "
    "both over float."
)


def flows_table(sweep: SweepResult) -> Table | None:
    """Return a row per method and flow without torch.ao, None if no method was run in flows of both kinds."""
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
    columns = ("Network", "Quantization", "dtype", "Baseline", "Candidate", "Size (MB)", "Accuracy", "Significant?")
    return Table((*columns, *(f"Speedup B{size}" for size in sizes)), tuple(rows), (MEANING,)) if rows else None


def _cells(baseline: Variant, other: Variant) -> tuple[str, ...]:
    sizes = " to ".join(size_text(size_mb(variant).mean) for variant in (baseline, other))
    change = change_of(baseline, other)
    accuracy = (str(change), significance(change)) if change else ("", "")
    return baseline.quant, baseline.precision, flow(baseline), flow(other), sizes, *accuracy
