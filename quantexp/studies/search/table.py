"""What the study `search` tells: a sentence, a table with the answer on top, figures, the history as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantexp.reports.findings import Findings
from quantexp.reports.sweep_table import without_empty
from quantexp.reports.table import Table, accuracy_text, speedup_text, speedup_word, variant_notes
from quantexp.results import Comparison, Report
from quantexp.results.metrics import metrics as metrics_of
from quantexp.results.text import p_text, size_text
from quantexp.studies.search.findings import FLOAT, Candidate, SearchReport

ROWS = 20  # that the table holds at most; the history has all


def findings(report: SearchReport) -> Findings:
    """Put all that is shown and recorded together."""
    from quantexp.studies.search.pictures import pictures

    return Findings(metrics(report), table(report), {"history": history(report)}, pictures(report))


def so_far(report: SearchReport) -> Findings:
    """The same while the search goes on, without pictures."""
    return Findings(metrics(report), table(report), {"history": history(report)}, {})


def metrics(report: SearchReport) -> dict[str, float]:
    """Return the figures under their public names: of the best on validation, and of its run on the test split."""
    best = report.answer
    named: dict[str, float] = {
        "variants": len(report.tried),
        "best/within_bound": report.goal.met_by(best),
        "best/accuracy_drop": best.accuracy_drop,
        "best/size_mb": best.size_mb,
        **{f"best/speedup_b{size}": ratio for size, ratio in best.speedups.items()},
    }
    if report.tested:
        known = metrics_of(report.tested)
        shown = ("accuracy", "accuracy_drop", "flips_gained", "flips_lost", "mcnemar_p", "size_mb")
        speedups = [f"speedup_b{size}" for size in best.speedups]
        named |= {f"test/{name}": known[name] for name in (*shown, *speedups)}
    return named


def table(report: SearchReport) -> Table:
    """Return a row a model: the answer, what is within the bound by its cost, then the others by what they lose."""
    sizes = list(report.unquantized.speedups)
    columns = (
        _any_run(report).network_name,
        "Quantization",
        "Accuracy\n(points)",
        "Flips",
        "SQNR\n(dB)",
        *(f"Speedup\nB{size}" for size in sizes),
        "Size\n(MB)",
        "Bound",
        "Front",
    )
    shown = [one for at, one in enumerate(report.ranked) if at < ROWS or one is report.unquantized]
    return without_empty(columns, [_row(report, one) for one in shown], tuple(_notes(report)))


def answer_text(report: SearchReport) -> str:
    """Say which model is the best, or the nearest to the bound, and what it costs and buys."""
    best, goal = report.answer, report.goal
    if goal.met_by(best):
        if best is report.unquantized:
            return f"float: {_why_float(report)}"
        return f"{_named(best)}, {_figures(report, best)}"
    asked = -100 * goal.max_accuracy_drop
    what = f"a gain of {asked:.2f} points" if asked > 0 else f"a loss of {-asked:.2f} points or less"
    return f"nothing meets the bound ({what}); the nearest is {_named(best)}, {_figures(report, best)}"


def history(report: SearchReport) -> list[Sequence[object]]:
    """Return all models in the order in which they were tried as lines of a CSV, with the best so far at each."""
    sizes = list(report.unquantized.speedups)
    figures = ("accuracy", "accuracy_drop", "flips_gained", "flips_lost", "output_sqnr_db", "size_mb")
    ratios = [f"speedup_b{size}{end}" for size in sizes for end in ("", "_low", "_high")]
    own = ("step", "quantized", "method", "layers", "dynamic")
    lines: list[Sequence[object]] = [(*own, *figures, *ratios, "within_bound", "on_front", "best_step")]
    places = {id(one): step for step, one in enumerate(report.candidates)}
    for step, (one, best) in enumerate(zip(report.candidates, report.best_so_far, strict=True)):
        chosen = (one.choice.name, one.choice.method, *(" ".join(of) for of in (one.choice.layers, one.choice.dynamic)))
        known = _unquantized_metrics(report) if one.report is None else metrics_of(one.report)
        marks = (report.goal.met_by(one), " ".join(_fronts(report, one)), places[id(best)])
        lines.append((step, *chosen, *(known.get(name, "") for name in (*figures, *ratios)), *marks))
    return lines


def _unquantized_metrics(report: SearchReport) -> dict[str, float]:
    one = report.unquantized
    speedups = {f"speedup_b{size}": ratio for size, ratio in one.speedups.items()}
    accuracy = _any_run(report).baseline.accuracy.value
    return {"accuracy": accuracy, "accuracy_drop": 0.0, "size_mb": one.size_mb, **speedups}


def _row(report: SearchReport, one: Candidate) -> tuple[str, ...]:
    name = f"answer: {one.choice.name}" if one is report.answer else one.choice.name
    bound = "" if report.goal.met_by(one) else "beyond"
    fronts = _fronts(report, one)
    ends = (size_text(one.size_mb), bound, "both" if len(fronts) > 1 else "".join(fronts))
    if one.report is None:
        return name, FLOAT, f"{0:+.2f}", "", "", *("" for _ in one.speedups), *ends
    comparison = _compared(one.report)
    sqnr = comparison.output_sqnr_db
    return (
        name,
        f"{one.choice.method} {one.report.precision}",
        _points(one.lost, one.examples),
        f"+{comparison.flips_gained} -{comparison.flips_lost}",
        "" if sqnr is None else f"{sqnr:.1f}",
        *(speedup_word(speedup) for speedup in comparison.speedups),
        *ends,
    )


def _fronts(report: SearchReport, one: Candidate) -> list[str]:
    return [name for name, front in report.fronts.items() if any(one is other for other in front)]


def _notes(report: SearchReport) -> Iterator[str]:
    goal, run = report.goal, _any_run(report)
    best = "Answer" if report.ended else "Best so far"
    yield f"{best}: {answer_text(report)}."
    if report.tested:
        yield _test_sentence(report.tested)
    if report.command:
        yield f"As a single run: {report.command}"
    float_percent = f"{100 * run.baseline.accuracy.value:.2f} %"
    yield (
        f"Decided on the validation split, where float has {float_percent}: {_bound(goal.max_accuracy_drop)}; "
        f"then {_objective(report)}. "
        "The best of many looks better than it is: what it is worth, the test split says."
    )
    yield "Front: it is on the Pareto front of accuracy against latency, against size, or on both."
    yield from _end(report)
    if len(report.candidates) > ROWS:
        yield f"history.csv has all {len(report.candidates)} models, in the order in which they were tried."
    if report.checkpoint:
        yield (
            f"The weights are those of {report.checkpoint}: if they were trained on the examples held out here, "
            "too small a loss is seen on them."
        )
    reports = [one.report for one in report.tried if one.report]
    yield from variant_notes(reports, "history.csv", report.failed)


def _bound(drop: float) -> str:
    return f"at most {100 * drop:.2f} points may be lost" if drop >= 0 else f"{-100 * drop:.2f} points must be gained"


def _objective(report: SearchReport) -> str:
    goal = report.goal
    if goal.objective == "size":
        return "the smallest is best"
    return (
        f"the fastest at batch {goal.batch_size} is best, or what loses less and is slower by {goal.margin:.0%} at most"
    )


def _end(report: SearchReport) -> Iterator[str]:
    count = f"{len(report.tried)} variants measured"
    if report.ended == "budget":
        yield f"{count}, then study.max_variants ended the search: there may be better ones."
    elif report.ended:
        yield f"{count}: no other one that differs from the best of its method in one part is better."


def _why_float(report: SearchReport) -> str:
    goal, nearest = report.goal, report.nearest
    inside = [one for one in report.tried if goal.met_by(one)]
    if not inside:
        return f"no quantized variant meets the bound; the nearest is {_named(nearest)}, {_figures(report, nearest)}"
    what = (
        "smaller" if goal.objective == "size" else f"faster at batch {goal.batch_size} by more than {goal.margin:.0%}"
    )
    closest = goal.best(inside)
    return (
        f"no quantized variant within the bound is {what}; the best is {_named(closest)}, {_figures(report, closest)}"
    )


def _named(one: Candidate) -> str:
    if one.report is None:
        return FLOAT
    return f"{one.choice.method} {one.report.precision} on {one.choice.name}"


def _figures(report: SearchReport, one: Candidate) -> str:
    size, whole = report.goal.batch_size, report.unquantized.size_mb
    return (
        f"{_points(one.lost, one.examples)} points, {one.speedups[size]:.2f}x as fast at batch {size}, "
        f"{size_text(one.size_mb)} MB (float: {size_text(whole)})"
    )


def _test_sentence(tested: Report) -> str:
    comparison = _compared(tested)
    speedups = "; ".join(f"B{one.batch_size} {speedup_text(one)}" for one in comparison.speedups)
    change = -100 * comparison.accuracy_drop
    flips = f"{comparison.flips_gained} gained, {comparison.flips_lost} lost"
    return (
        f"On the test split, which decided nothing: {accuracy_text(tested.result)} %, {change:+z.2f} points against "
        f"float ({flips}; exact McNemar test, {p_text(comparison.p_value)}); {speedups}."
    )


def _points(lost: int, examples: int) -> str:
    return f"{-100 * lost / examples:+z.2f}"


def _compared(report: Report) -> Comparison:
    assert report.comparison is not None
    return report.comparison


def _any_run(report: SearchReport) -> Report:
    """Return a run of the search, for what all of them share."""
    return next(one.report for one in report.tried if one.report)
