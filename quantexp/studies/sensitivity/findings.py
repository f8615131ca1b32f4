"""What the study `sensitivity` found out, and how it is told: figures, a table sorted by what hurts, a sentence, CSV.

What leaving a part in float wins back is seen on the same examples: two quantized models differ where the flips
of one from the float model are not those of the other. The exact McNemar test is held at 5 % over all parts together
(Bonferroni), as each of many tests would find something by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from quantexp.reports.findings import Findings
from quantexp.reports.table import SIMULATED, Table, speedup_word, variant_notes
from quantexp.results import Comparison, Report, won_and_lost
from quantexp.results.metrics import metrics as metrics_of
from quantexp.results.text import p_text, size_text
from quantexp.statistics.paired import mcnemar
from quantexp.statistics.proportions import CONFIDENCE

ALONE, ALL_BUT = "alone", "all but it"
PREFIX = {ALONE: "alone", ALL_BUT: "all_but"}  # of metrics
FIGURES = ("accuracy", "accuracy_drop", "flips_gained", "flips_lost", "mcnemar_p", "loss", "output_sqnr_db", "size_mb")


@dataclass(frozen=True)
class Part:
    """A layer, or a module with the layers in it: the run that quantizes it alone, and that of all but it.

    A run is None if it could not be quantized; `all_but` is None too if nothing would be left to quantize.
    """

    name: str
    layers: tuple[str, ...]
    alone: Report | None
    all_but: Report | None

    @property
    def runs(self) -> tuple[tuple[str, Report | None], ...]:
        """Both runs under their names."""
        return (ALONE, self.alone), (ALL_BUT, self.all_but)


@dataclass(frozen=True)
class WonBack:
    """What leaving a part in float wins: points of accuracy over all quantized, and the p-value of that."""

    part: Part
    points: float
    p_value: float


@dataclass(frozen=True)
class SensitivityReport:
    """All parts, as the network has them, and the run that quantizes them all.

    `failed` has the error of each variant that could not be quantized; `excluded` are the patterns that the
    experiment itself keeps in float.
    """

    whole: Report
    parts: tuple[Part, ...]
    failed: Mapping[str, str]
    excluded: tuple[str, ...] = ()

    @cached_property
    def ranked(self) -> tuple[Part, ...]:
        """The parts, first the one that costs the most accuracy when it is quantized alone; ties by output SQNR."""
        return tuple(sorted(self.parts, key=_harm))

    @cached_property
    def to_keep(self) -> tuple[WonBack, ...]:
        """The parts whose place in float wins accuracy that is more than chance, the most first."""
        tested = [(part, part.all_but) for part in self.parts if part.all_but]
        found = []
        for part, run in tested:
            gained, lost = won_and_lost(compared(self.whole), compared(run))
            p_value = mcnemar(gained, lost)
            if gained > lost and p_value < (1 - CONFIDENCE) / len(tested):
                found.append(WonBack(part, 100 * (gained - lost) / run.data.evaluated, p_value))
        return tuple(sorted(found, key=lambda one: -one.points))


def compared(report: Report) -> Comparison:
    """Return how the quantized model does against float; every variant of the study has one."""
    assert report.comparison is not None
    return report.comparison


def loss_change(report: Report) -> float | None:
    """Return the loss of the quantized model less that of the float model, None if one is not known."""
    loss, before = report.result.loss, report.baseline.loss
    return None if loss is None or before is None else loss - before


def findings(report: SensitivityReport) -> Findings:
    """Return the report as it is shown and recorded."""
    from quantexp.studies.sensitivity.pictures import pictures

    return Findings(metrics(report), table(report), {"variants": variant_lines(report)}, pictures(report))


def metrics(report: SensitivityReport) -> dict[str, float]:
    """Return the figures under their public names: `alone/layers.0/accuracy_drop`, and of all layers `whole/...`."""
    named: dict[str, float] = {"parts": len(report.parts), "kept_in_float": len(report.to_keep)}
    runs = [("whole", report.whole)]
    runs += [(f"{PREFIX[kind]}/{part.name}", run) for part in report.ranked for kind, run in part.runs if run]
    for prefix, run in runs:
        known = metrics_of(run)
        speedups = [f"speedup_b{one.batch_size}" for one in compared(run).speedups]
        named |= {f"{prefix}/{name}": known[name] for name in (*FIGURES, *speedups) if name in known}
    return named


def table(report: SensitivityReport) -> Table:
    """Return a row a variant, the parts sorted by what hurts; what could not be measured has empty cells."""
    sizes = [f"Speedup\nB{one.batch_size}" for one in compared(report.whole).speedups]
    columns = (
        report.whole.network_name,
        "Quantized",
        "Accuracy\n(points)",
        "Flips",
        "Loss",
        "SQNR\n(dB)",
        *sizes,
        "Size\n(MB)",
    )
    rows = [("all layers", "all", *_cells(report.whole))]
    for part in report.ranked:
        for index, (kind, run) in enumerate(part.runs):
            cells = _cells(run) if run else ("",) * (len(columns) - 2)
            rows.append((part.name if index == 0 else "", kind, *cells))
    return Table(columns, tuple(rows), tuple(_notes(report)))


def advice(report: SensitivityReport) -> str:
    """Say which parts to keep in float."""
    whole = compared(report.whole)
    tested = sum(part.all_but is not None for part in report.parts)
    how = f"exact McNemar test, 5 %{f' over {tested} tests' * (tested > 1)}"
    if found := report.to_keep:
        names = _listed([one.part.name for one in found])
        layers = dict.fromkeys([*report.excluded, *(layer for one in found for layer in one.part.layers)])
        won = "; ".join(f"{one.part.name} wins back {one.points:.2f} points ({p_text(one.p_value)})" for one in found)
        return f"Keep {names} in float (quant.exclude=[{','.join(layers)}]): left out, {won}; {how}."
    if whole.accuracy_verdict != "a loss":
        return f"No layer's loss can be told from chance: quantize all ({how})."
    lost = f"All layers together lose {100 * whole.accuracy_drop:.2f} points ({p_text(whole.p_value)})"
    if not tested:
        return f"{lost}, and nothing would be left to quantize without {_listed([one.name for one in report.parts])}."
    return f"{lost}, but no single one left out wins accuracy back that can be told from chance ({how})."


def variant_lines(report: SensitivityReport) -> list[Sequence[object]]:
    """Return the figures of each variant as lines of a CSV."""
    sizes = [one.batch_size for one in compared(report.whole).speedups]
    ends = ("", "_low", "_high")
    names = (*FIGURES, *(f"speedup_b{size}{end}" for size in sizes for end in ends))
    runs = [("all layers", "all", report.whole)]
    runs += [(part.name, kind, run) for part in report.ranked for kind, run in part.runs if run]
    lines: list[Sequence[object]] = [("part", "quantized", *names, "loss_change")]
    for name, kind, run in runs:
        known = metrics_of(run)
        lines.append((name, kind, *(known.get(one, "") for one in names), loss_change(run)))
    return lines


def _harm(part: Part) -> tuple[float, float]:
    """Return the key that sorts a part: what costs the most accuracy, then what has the lowest SQNR; unknown last."""
    if part.alone is None:
        return math.inf, 0.0
    sqnr = compared(part.alone).output_sqnr_db
    return -compared(part.alone).accuracy_drop, math.inf if sqnr is None else sqnr


def _cells(report: Report) -> tuple[str, ...]:
    comparison = compared(report)
    change, sqnr = loss_change(report), comparison.output_sqnr_db
    return (
        f"{-100 * comparison.accuracy_drop + 0.0:+.2f}",
        f"+{comparison.flips_gained} -{comparison.flips_lost}",
        "" if change is None else f"{change:+.4f}",
        "" if sqnr is None else f"{sqnr:.1f}",
        *(speedup_word(one) for one in comparison.speedups),
        size_text(report.result.size_mb),
    )


def _notes(report: SensitivityReport) -> Iterator[str]:
    whole = report.whole
    yield advice(report)
    yield (
        f"{whole.quant} {whole.precision} against float ({100 * whole.baseline.accuracy.value:.2f} %, "
        f"{size_text(whole.baseline.size_mb)} MB). Accuracy, Loss: change from float. Flips: "
        f"{whole.data.evaluation} examples gained and lost. SQNR: energy of the float logits over that of their change."
    )
    if whole.precision == SIMULATED:
        yield "Simulated: rounded values, computed with in float. Sizes are those of float, and nothing is timed."
    yield "Sorted by the accuracy lost when quantized alone, ties by the lower SQNR."
    if grouped := [part for part in report.parts if part.layers != (part.name,)]:
        yield "As a whole: " + "; ".join(f"{part.name} ({', '.join(part.layers)})" for part in grouped) + "."
    reports = [whole, *(run for part in report.parts for _, run in part.runs if run)]
    yield from variant_notes(reports, "variants.csv", report.failed)


def _listed(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
