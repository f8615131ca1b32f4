"""The table of the study `search` with the answer on top, its sentences, its metrics, and the history as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantexp.config import Criterion
from quantexp.reports.cells import known, quality_text, speedup_text, speedup_word
from quantexp.reports.findings import Findings
from quantexp.reports.notes import variant_notes
from quantexp.reports.table import Table
from quantexp.results import Report
from quantexp.results.metrics import metrics as metrics_of
from quantexp.results.text import change_text, flips_text, p_text, points_text, size_text
from quantexp.studies.criteria import NAMES, compared, value_text
from quantexp.studies.search.findings import FLOAT, Candidate, Goal, SearchReport
from quantexp.studies.search.pictures import pictures

ROWS = 20  # most rows of the table; the history has all candidates
OF_BEST = ("accuracy_drop", "agreement", "output_sqnr_db", "size_mb")
OF_TEST = ("accuracy", "accuracy_drop", "flips_gained", "flips_lost", "mcnemar_p", "size_mb")
OF_EACH = ("accuracy", "accuracy_drop", "flips_gained", "flips_lost", "agreement", "output_sqnr_db", "size_mb")


def findings(report: SearchReport) -> Findings:
    """Return the findings as they are shown and recorded."""
    return Findings(metrics(report), table(report), {"history": history(report)}, pictures(report))


def so_far(report: SearchReport) -> Findings:
    """Return the findings during the search, without pictures."""
    return Findings(metrics(report), table(report), {"history": history(report)}, {})


def metrics(report: SearchReport) -> dict[str, float]:
    """Return the metrics by name: of the best candidate, and of its run on the test split."""
    best, figures = report.answer, _figures(report, report.answer)
    speedups = [f"{stem}_b{size}" for size in report.sizes for stem in _stems(report)]
    named: dict[str, float] = {
        "variants": len(report.tried),
        "best/within_bound": report.goal.met_by(best),
        **{f"best/{name}": figures[name] for name in (*OF_BEST, *speedups) if name in figures},
    }
    if report.tested:
        tested = _figures(report, report.of_test(report.tested))
        named |= {f"test/{name}": tested[name] for name in (*OF_TEST, *speedups) if name in tested}
    return named


def table(report: SearchReport) -> Table:
    """Return a row per candidate: the answer, those within the bound by cost, then the others by loss."""
    figures = ("Accuracy\n(points)", "Examples", "Agreement\n(%)", "SQNR\n(dB)")
    speedups = (f"Speedup\nB{size}" for size in report.sizes)
    names = (report.reports[0].network_name, "Quantization", "Runtime")
    columns = (*names, *figures, *speedups, "Size\n(MB)", "Bound", "Front")
    shown = [*report.ranked[:ROWS], *(candidate for candidate in report.ranked[ROWS:] if candidate.report is None)]
    return Table(columns, tuple(_row(report, candidate) for candidate in shown), tuple(_notes(report))).compact()


def answer_text(report: SearchReport) -> str:
    """Return the best candidate, or the nearest to the bound, with its loss, speedup and size."""
    best, goal = report.answer, report.goal
    if not goal.met_by(best):
        return f"none; no candidate meets the bound ({_bound(goal)}), the nearest is {_described(report, best)}"
    if best.report:
        return _described(report, best)
    name = _described(report, best) if report.several else FLOAT
    inside = [candidate for candidate in report.tried if goal.met_by(candidate)]
    if not inside:
        return f"{name}; no quantized variant meets the bound, the nearest is {_described(report, report.nearest)}"
    better = "smaller"
    if goal.objective != "size":
        better = f"faster at batch {goal.batch_size} by more than {goal.margin:.0%}"
    closest = _described(report, goal.best(inside))
    return f"{name}; no quantized variant within the bound is {better}, the best is {closest}"


def history(report: SearchReport) -> list[Sequence[object]]:
    """Return all candidates in the order of the search as lines of a CSV file, with the best so far at each."""
    known_figures = [_figures(report, candidate) for candidate in report.candidates]
    names = [name for name in OF_EACH if any(name in figures for figures in known_figures)]
    speedups = [f"{stem}_b{size}" for stem in _stems(report) for size in report.sizes]
    names += [f"{speedup}{end}" for speedup in speedups for end in ("", "_low", "_high")]
    own = ("step", "quantized", "method", *["runtime"] * report.several, "layers", "dynamic")
    lines: list[Sequence[object]] = [(*own, *names, "within_bound", "on_front", "best_step")]
    places = {id(candidate): step for step, candidate in enumerate(report.candidates)}
    rows = zip(report.candidates, known_figures, report.best_so_far, strict=True)
    for step, (candidate, figures, best) in enumerate(rows):
        choice = candidate.choice
        where = [choice.runtime] * report.several
        chosen = (choice.name, choice.method, *where, " ".join(choice.layers), " ".join(choice.dynamic))
        marks = (report.goal.met_by(candidate), " ".join(_fronts(report, candidate)), places[id(best)])
        lines.append((step, *chosen, *(figures.get(name, "") for name in names), *marks))
    return lines


def _stems(report: SearchReport) -> tuple[str, ...]:
    """Return the names of the speedups without the batch size: over float in the same runtime, and in eager."""
    return ("speedup", "speedup_over_eager") if report.several else ("speedup",)


def _figures(report: SearchReport, candidate: Candidate) -> dict[str, float]:
    """Return the metrics of a candidate by name; those of a float network come from another run."""
    over = _named("speedup_over_eager", candidate) if report.several else {}
    if candidate.report:
        return {**metrics_of(candidate.report), **over}
    quality = report.reports[0].baseline.quality
    labelled = {"accuracy": quality.value, "accuracy_drop": 0.0} if quality else {}
    own = {f"speedup_b{size}": 1.0 for size in report.sizes}
    return {**labelled, "agreement": 1.0, "size_mb": candidate.size_mb, **own, **over}


def _named(stem: str, candidate: Candidate) -> dict[str, float]:
    """Return the speedups of a candidate by the names of metrics, with the ends of their intervals."""
    named: dict[str, float | None] = {}
    for size, speedup in candidate.speedups.items():
        name = f"{stem}_b{size}"
        named |= {name: speedup.ratio, f"{name}_low": speedup.low, f"{name}_high": speedup.high}
    return {name: value for name, value in named.items() if value is not None}


def _row(report: SearchReport, candidate: Candidate) -> tuple[str, ...]:
    choice, comparison = candidate.choice, candidate.comparison
    name = f"answer: {choice.name}" if candidate is report.answer else choice.name
    fronts = _fronts(report, candidate)
    bound = "met" if report.goal.met_by(candidate) else "missed"
    ends = (size_text(candidate.size_mb), bound, "both" if len(fronts) > 1 else "".join(fronts))
    agreement = not report.labelled or report.goal.criterion is Criterion.agreement
    names = (name, _quantization(report, candidate), choice.runtime * report.several)
    if candidate.report is None or comparison is None:
        quality = points_text(0) if report.labelled else ""
        over = candidate.speedups.values()
        speedups = ("" if speedup.low is None else speedup_word(speedup) for speedup in over)
        return *names, quality, "", "100.00" * agreement, "", *speedups, *ends
    change = comparison.quality
    return (
        *names,
        points_text(-change.drop) if change else "",
        flips_text(change) if change else "",
        f"{100 * comparison.agreement:.2f}" * agreement,
        known(comparison.output_sqnr_db, 1),
        *(speedup_word(speedup) for speedup in candidate.speedups.values()),
        *ends,
    )


def _quantization(report: SearchReport, candidate: Candidate) -> str:
    """Return method and dtype, with the flow where runtimes differ in it: `static int8 pt2e`."""
    if candidate.report is None:
        return FLOAT
    flow = candidate.report.flow if report.several else None
    return " ".join(part for part in (candidate.choice.method, candidate.report.precision, flow) if part)


def _fronts(report: SearchReport, candidate: Candidate) -> list[str]:
    return [name for name, front in report.fronts.items() if any(candidate is other for other in front)]


def _notes(report: SearchReport) -> Iterator[str]:
    yield f"{'Answer' if report.ended else 'Best so far'}: {answer_text(report)}."
    if report.tested:
        yield _test_sentence(report, report.tested)
    if report.command:
        yield f"To run the answer alone: {report.command}"
    quality = report.reports[0].baseline.quality
    goal = f"Bound: {_bound(report.goal)}. Objective: {_objective(report.goal)}."
    if quality:
        yield (
            f"{goal} Decided on the validation split (float: {100 * quality.value:.2f} %), on which the best of many "
            "variants looks better than it is; the test split gives an unbiased result."
        )
    else:
        examples = f"{report.answer.examples:,} random examples without labels"
        yield f"{goal} Decided on {examples}; there is no separate test run."
    yield f"Front: on the Pareto front of {NAMES[report.goal.criterion]} vs latency, vs size, or both."
    yield from _end(report)
    yield from (f"Not searched: {name} ({reason})." for name, reason in report.left_out.items())
    if len(report.candidates) > ROWS:
        yield f"history.csv has all {len(report.candidates)} candidates, in the order of the search."
    if report.checkpoint and quality:
        yield (
            f"The weights come from {report.checkpoint}: if they were trained on the validation examples, the loss on "
            "these is underestimated."
        )
    reference = "float in eager execution, timed in turns with each network" if report.several else "float"
    yield from variant_notes(report.reports, "history.csv", report.failed, reference)


def _bound(goal: Goal) -> str:
    if goal.criterion is Criterion.agreement:
        return f"agreement with float of at least {100 * goal.limit:.2f} %"
    if goal.criterion is Criterion.output_sqnr_db:
        return f"output SQNR of at least {goal.limit:.1f} dB"
    lost = 100 * goal.limit
    return f"loss of at most {lost:.2f} points" if lost >= 0 else f"gain of at least {-lost:.2f} points"


def _objective(goal: Goal) -> str:
    if goal.objective == "size":
        return "least size"
    return f"least latency at batch {goal.batch_size}; within {goal.margin:.0%} of it, least loss"


def _end(report: SearchReport) -> Iterator[str]:
    count = f"{len(report.tried)} variants measured"
    if report.ended == "budget":
        yield f"{count}; study.max_variants ended the search, so there may be better ones."
    elif report.ended:
        where = " and runtime" * report.several
        yield f"{count}; no change of a single part improves the best variant of its method{where}."


def _described(report: SearchReport, candidate: Candidate) -> str:
    """Return a candidate with its loss, speedup and size."""
    size, choice = report.goal.batch_size, candidate.choice
    name = f"{_quantization(report, candidate)} on {choice.name}" if candidate.report else FLOAT
    where = f" in {choice.runtime}" * report.several
    return (
        f"{name}{where}, {value_text(report.goal.criterion, candidate.comparison)}, "
        f"speedup {candidate.speedups[size].ratio:.2f}x at batch {size}, "
        f"{size_text(candidate.size_mb)} MB (float: {size_text(report.floats[0].size_mb)})"
    )


def _test_sentence(report: SearchReport, tested: Report) -> str:
    comparison, quality = compared(tested), tested.result.quality
    change = comparison.quality
    assert quality is not None and change is not None  # only labelled data have a test run
    found = report.of_test(tested).speedups.values()
    speedups = "; ".join(f"B{speedup.batch_size} {speedup_text(speedup)}" for speedup in found)
    return (
        f"On the test split: {quality_text(quality)} %, vs float {change_text(change)} "
        f"(exact McNemar test, {p_text(change.p_value)}). Speedup: {speedups}."
    )
