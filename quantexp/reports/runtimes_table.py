"""The tables of a sweep over runtimes: what is fastest in each cell, and every network in every runtime."""

from __future__ import annotations

from quantexp.analysis.names import setup_names
from quantexp.analysis.runtimes import EAGER, FLOAT, Cell, Executed, cells
from quantexp.analysis.seeds import spread
from quantexp.analysis.settings import settings_text
from quantexp.reports.cells import ratio_text
from quantexp.reports.notes import memory_notes
from quantexp.reports.table import Table
from quantexp.results.sweep import SweepResult
from quantexp.results.text import size_text

MEANING = (
    "Speedups are over the float network in eager execution, timed in turns with each network in one process. Networks "
    "of different runs are compared through it. [ ]: 95 % interval. *: something disturbed the measurement."
)


# Memory is shown where it was measured, which benchmark.memory asks for.
FACTS = ("Size (MB)", "Accuracy (%)", "Load (ms)", "First call (ms)", "Memory (MB)")


def verdicts_table(sweep: SweepResult) -> Table | None:
    """Return a row per task, setup and batch size with what is fastest; None if there is only one runtime."""
    found = cells(sweep)
    names = setup_names(list(dict.fromkeys(cell.setup for cell in found)))
    rows = [(*_place(cell, names[cell.setup]), str(cell.size), cell.fastest.name, *_over(cell)) for cell in found]
    columns = ("Task", "Setup", "Batch", "Fastest", "vs eager float", "vs torch.ao int8", "vs fastest float")
    return Table(columns, tuple(rows), (MEANING,)).compact() if rows else None


def runtimes_table(sweep: SweepResult) -> Table | None:
    """Return a row per network in a runtime with its speedups in each cell; None if there is only one runtime."""
    found = cells(sweep)
    names = setup_names(list(dict.fromkeys(cell.setup for cell in found)))
    headings = list(dict.fromkeys(_heading(cell, names[cell.setup]) for cell in found))
    rows: dict[tuple[str, str, str], dict[str, Executed]] = {}
    for cell in found:
        for network in cell.ranked:
            key = (
                ", ".join(part for part in (cell.task, settings_text(cell.settings)) if part),
                network.runtime,
                network.method,
            )
            rows.setdefault(key, {})[_heading(cell, names[cell.setup])] = network
    lines = [
        (*key, *_facts(next(iter(cells_.values()))), *(_ratio(cells_.get(heading)) for heading in headings))
        for key, cells_ in sorted(rows.items(), key=lambda row: (row[0][0], row[0][2] != FLOAT))
    ]
    columns = ("Task", "Runtime", "Network", *FACTS, *headings)
    measured = (one for cell in found for network in cell.ranked for one in network.measured)
    return Table(columns, tuple(lines), (MEANING, *memory_notes(measured))).compact() if lines else None


def _place(cell: Cell, setup: str) -> tuple[str, str]:
    return ", ".join(part for part in (cell.task, settings_text(cell.settings)) if part), setup


def _heading(cell: Cell, setup: str) -> str:
    return f"Speedup B{cell.size}{f', {setup}' if setup else ''}"


def _over(cell: Cell) -> list[str]:
    others = [cell.over(other) if other else None for other in (cell.torch_ao, cell.best_float)]
    unstable = cell.fastest.unstable
    return [
        ratio_text(cell.fastest.ratio, unstable=unstable),
        *(ratio_text(ratio, unstable=unstable) for ratio in others),
    ]


def _facts(network: Executed) -> tuple[str, ...]:
    """Return the cells of FACTS, of quantized networks: the float network has a row for each runtime."""
    if network.method == FLOAT:
        return ("",) * len(FACTS)
    measured = network.measured
    size = size_text(spread([one.size_mb for one in measured]).mean)
    return (
        size,
        _mean([100 * one.quality.value for one in measured if one.quality], 2),
        _mean([one.load_ms for one in measured if one.load_ms is not None], 1),
        _mean([one.latency[0].first_call_ms for one in measured if one.latency], 1),
        _mean([one.memory_bytes / 1e6 for one in measured if one.memory_bytes is not None], 0),
    )


def _mean(values: list[float], decimals: int) -> str:
    """Return the mean over seeds as text, empty without values."""
    return f"{spread(values).mean:.{decimals}f}" if values else ""


def _ratio(network: Executed | None) -> str:
    if network and (network.method, network.runtime) == (FLOAT, EAGER):
        return "1"
    return ratio_text(network.ratio, unstable=network.unstable) if network else ""
