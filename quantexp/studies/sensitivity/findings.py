"""The findings of the study `sensitivity`: each part alone and all parts but it, ranked, and which to keep in float.

Whether leaving a part in float brings accuracy back is tested on the same examples, by the exact McNemar test. Its 5 %
level holds for all parts together (Bonferroni), because some of many tests are significant by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from quantexp.analysis.quality import closeness_db
from quantexp.config import Criterion
from quantexp.results import Report
from quantexp.results.metrics import metrics as metrics_of
from quantexp.statistics.proportions import CONFIDENCE
from quantexp.studies.criteria import compared, degradation
from quantexp.tasks.objectives.between import change_between

ALONE, ALL_BUT = "alone", "all but it"
PREFIX = {ALONE: "alone", ALL_BUT: "all_but"}  # of metrics
FIGURES = (
    *("accuracy", "accuracy_drop", "flips_gained", "flips_lost", "mcnemar_p", "loss"),
    *("agreement", "output_sqnr_db", "size_mb"),
)


@dataclass(frozen=True)
class Part:
    """A layer, or a module with its layers: the run that quantizes it alone, and the run of all parts but it.

    A run is None if it could not be quantized; `all_but` is also None if nothing else is quantized.
    """

    name: str
    layers: tuple[str, ...]
    alone: Report | None
    all_but: Report | None

    @property
    def runs(self) -> tuple[tuple[str, Report | None], ...]:
        """Both runs with their names."""
        return (ALONE, self.alone), (ALL_BUT, self.all_but)


@dataclass(frozen=True)
class Recovery:
    """The gain in accuracy from leaving a part in float, over quantizing all parts, with its p-value."""

    part: Part
    gain: float
    p_value: float


@dataclass(frozen=True)
class SensitivityReport:
    """All parts in the order of the network, and the run that quantizes all of them.

    `failed` has the error of each variant that could not be quantized, `excluded` the patterns that the experiment
    itself keeps in float. `by` is the criterion for the ranking.
    """

    whole: Report
    parts: tuple[Part, ...]
    failed: Mapping[str, str]
    excluded: tuple[str, ...] = ()
    by: Criterion = Criterion.accuracy

    @property
    def reports(self) -> list[Report]:
        """The reports of all variants."""
        return [self.whole, *(run for part in self.parts for _, run in part.runs if run)]

    @cached_property
    def ranked(self) -> tuple[Part, ...]:
        """The parts by their loss when quantized alone, the greatest first; ties by output SQNR."""

        def place(part: Part) -> tuple[bool, float, float]:
            if part.alone is None:
                return True, 0.0, 0.0
            alone = compared(part.alone)
            return False, -degradation(self.by, alone), closeness_db(alone)

        return tuple(sorted(self.parts, key=place))

    @property
    def tested(self) -> list[tuple[Part, Report]]:
        """The parts that can be left in float, each with the run that quantizes all others."""
        return [(part, part.all_but) for part in self.parts if part.all_but]

    @cached_property
    def to_keep(self) -> tuple[Recovery, ...]:
        """The parts that bring a significant gain in accuracy when left in float, the greatest first."""
        found = []
        for part, run in self.tested if self.by is Criterion.accuracy else ():
            whole, without = compared(self.whole).quality, compared(run).quality
            if whole and without:
                change = change_between(whole, without, run.data.evaluated)
                if change.drop < 0 and change.p_value < (1 - CONFIDENCE) / len(self.tested):
                    found.append(Recovery(part, -change.drop, change.p_value))
        return tuple(sorted(found, key=lambda recovery: -recovery.gain))

    @cached_property
    def closest(self) -> tuple[Part, Report] | None:
        """The part that, left in float, brings the outputs closest to float; None if no part does."""
        if not self.tested:
            return None
        part, run = min(self.tested, key=lambda pair: degradation(self.by, compared(pair[1])))
        return (part, run) if degradation(self.by, compared(run)) < degradation(self.by, compared(self.whole)) else None


def loss_change(report: Report) -> float | None:
    """Return the loss of the quantized network minus that of float, None if one of them is unknown."""
    loss, before = report.result.loss, report.baseline.loss
    return None if loss is None or before is None else loss - before


def metrics(report: SensitivityReport) -> dict[str, float]:
    """Return the metrics by name: `alone/layers.0/accuracy_drop`, and for all layers `whole/...`."""
    named: dict[str, float] = {"parts": len(report.parts)}
    if report.by is Criterion.accuracy:
        named["kept_in_float"] = len(report.to_keep)
    runs = [("whole", report.whole)]
    runs += [(f"{PREFIX[kind]}/{part.name}", run) for part in report.ranked for kind, run in part.runs if run]
    for prefix, run in runs:
        known = metrics_of(run)
        speedups = [f"speedup_b{speedup.batch_size}" for speedup in compared(run).speedups]
        named |= {f"{prefix}/{name}": known[name] for name in (*FIGURES, *speedups) if name in known}
    return named


def variant_lines(report: SensitivityReport) -> list[Sequence[object]]:
    """Return the figures of each variant as lines of a CSV file; without labels, accuracy and loss are left out."""
    sizes = [speedup.batch_size for speedup in compared(report.whole).speedups]
    runs = [("all layers", "all", report.whole)]
    runs += [(part.name, kind, run) for part in report.ranked for kind, run in part.runs if run]
    known = [metrics_of(run) for _, _, run in runs]
    names = [name for name in FIGURES if any(name in figures for figures in known)]
    names += [f"speedup_b{size}{end}" for size in sizes for end in ("", "_low", "_high")]
    changes = [loss_change(run) for _, _, run in runs]
    loss = ["loss_change"] if any(change is not None for change in changes) else []
    lines: list[Sequence[object]] = [("part", "quantized", *names, *loss)]
    for (name, kind, _), figures, change in zip(runs, known, changes, strict=True):
        lines.append((name, kind, *(figures.get(figure, "") for figure in names), *([change] if loss else [])))
    return lines
