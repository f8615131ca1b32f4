"""What the study `search` tells: a sentence, a table with the answer on top, figures, the history as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quantexp.config import Criterion
from quantexp.reports.cells import known, quality_text, speedup_text, speedup_word
from quantexp.reports.findings import Findings
from quantexp.reports.notes import variant_notes
from quantexp.reports.table import Table
from quantexp.results import Report
from quantexp.results.metrics import metrics as metrics_of
from quantexp.results.text import flips_text, p_text, points_text, size_text
from quantexp.studies.criteria import compared, value_text
from quantexp.studies.search.findings import FLOAT, Candidate, Goal, SearchReport
from quantexp.studies.search.pictures import pictures

ROWS = 20  # that the table holds at most; the history has all
OF_BEST = ("accuracy_drop", "agreement", "output_sqnr_db", "size_mb")
OF_TEST = ("accuracy", "accuracy_drop", "flips_gained", "flips_lost", "mcnemar_p", "size_mb")
OF_EACH = ("accuracy", "accuracy_drop", "flips_gained", "flips_lost", "agreement", "output_sqnr_db", "size_mb")


def findings(report: SearchReport) -> Findings:
    """Put all that is shown and recorded together."""
    return Findings(metrics(report), table(report), {"history": history(report)}, pictures(report))


def so_far(report: SearchReport) -> Findings:
    """The same while the search goes on, without pictures."""
    return Findings(metrics(report), table(report), {"history": history(report)}, {})


def metrics(report: SearchReport) -> dict[str, float]:
    """Return the figures under their public names: of the best on validation, and of its run on the test split."""
    best, figures = report.answer, _figures(report, report.answer)
    speedups = [f"speedup_b{size}" for size in best.speedups]
    named: dict[str, float] = {
        "variants": len(report.tried),
        "best/within_bound": report.goal.met_by(best),
        **{f"best/{name}": figures[name] for name in (*OF_BEST, *speedups) if name in figures},
    }
    if report.tested:
        tested = metrics_of(report.tested)
        named |= {f"test/{name}": tested[name] for name in (*OF_TEST, *speedups)}
    return named


def table(report: SearchReport) -> Table:
    """Return a row a network: the answer, what is within the bound by its cost, then the others by what they lose."""
    figures = ("Accuracy\n(points)", "Flips", "Agreement\n(%)", "SQNR\n(dB)")
    speedups = (f"Speedup\nB{size}" for size in report.unquantized.speedups)
    columns = (report.reports[0].network_name, "Quantization", *figures, *speedups, "Size\n(MB)", "Bound", "Front")
    shown = [one for at, one in enumerate(report.ranked) if at < ROWS or one is report.unquantized]
    return Table(columns, tuple(_row(report, candidate) for candidate in shown), tuple(_notes(report))).compact()


def answer_text(report: SearchReport) -> str:
    """Say which network is the best, or the nearest to the bound, and what it costs and buys."""
    best, goal = report.answer, report.goal
    if not goal.met_by(best):
        return f"nothing meets the bound ({_bound(goal)}); the nearest is {_described(report, best)}"
    if best is not report.unquantized:
        return _described(report, best)
    inside = [candidate for candidate in report.tried if goal.met_by(candidate)]
    if not inside:
        return f"float: no quantized variant meets the bound; the nearest is {_described(report, report.nearest)}"
    better = "smaller"
    if goal.objective != "size":
        better = f"faster at batch {goal.batch_size} by more than {goal.margin:.0%}"
    closest = _described(report, goal.best(inside))
    return f"float: no quantized variant within the bound is {better}; the best is {closest}"


def history(report: SearchReport) -> list[Sequence[object]]:
    """Return all networks in the order in which they were tried as lines of a CSV, with the best so far at each."""
    known_figures = [_figures(report, candidate) for candidate in report.candidates]
    names = [name for name in OF_EACH if any(name in figures for figures in known_figures)]
    names += [f"speedup_b{size}{end}" for size in report.unquantized.speedups for end in ("", "_low", "_high")]
    own = ("step", "quantized", "method", "layers", "dynamic")
    lines: list[Sequence[object]] = [(*own, *names, "within_bound", "on_front", "best_step")]
    places = {id(candidate): step for step, candidate in enumerate(report.candidates)}
    rows = zip(report.candidates, known_figures, report.best_so_far, strict=True)
    for step, (candidate, figures, best) in enumerate(rows):
        choice = candidate.choice
        chosen = (choice.name, choice.method, " ".join(choice.layers), " ".join(choice.dynamic))
        marks = (report.goal.met_by(candidate), " ".join(_fronts(report, candidate)), places[id(best)])
        lines.append((step, *chosen, *(figures.get(name, "") for name in names), *marks))
    return lines


def _figures(report: SearchReport, candidate: Candidate) -> dict[str, float]:
    """Return the figures of a network under their public names; those of the float network from a run beside it."""
    if candidate.report:
        return metrics_of(candidate.report)
    quality = report.reports[0].baseline.quality
    labelled = {"accuracy": quality.value, "accuracy_drop": 0.0} if quality else {}
    speedups = {f"speedup_b{size}": ratio for size, ratio in candidate.speedups.items()}
    return {**labelled, "agreement": 1.0, "size_mb": candidate.size_mb, **speedups}


def _row(report: SearchReport, candidate: Candidate) -> tuple[str, ...]:
    choice, comparison = candidate.choice, candidate.comparison
    name = f"answer: {choice.name}" if candidate is report.answer else choice.name
    fronts = _fronts(report, candidate)
    bound = "" if report.goal.met_by(candidate) else "beyond"
    ends = (size_text(candidate.size_mb), bound, "both" if len(fronts) > 1 else "".join(fronts))
    agreement = not report.labelled or report.goal.criterion is Criterion.agreement
    if candidate.report is None or comparison is None:
        quality = points_text(0) if report.labelled else ""
        return name, FLOAT, quality, "", "100.00" * agreement, "", *("" for _ in candidate.speedups), *ends
    change = comparison.quality
    return (
        name,
        f"{choice.method} {candidate.report.precision}",
        points_text(-change.drop) if change else "",
        f"+{change.flips_gained} -{change.flips_lost}" if change else "",
        f"{100 * comparison.agreement:.2f}" * agreement,
        known(comparison.output_sqnr_db, 1),
        *(speedup_word(speedup) for speedup in comparison.speedups),
        *ends,
    )


def _fronts(report: SearchReport, candidate: Candidate) -> list[str]:
    return [name for name, front in report.fronts.items() if any(candidate is other for other in front)]


def _notes(report: SearchReport) -> Iterator[str]:
    yield f"{'Answer' if report.ended else 'Best so far'}: {answer_text(report)}."
    if report.tested:
        yield _test_sentence(report.tested)
    if report.command:
        yield f"As a single run: {report.command}"
    quality = report.reports[0].baseline.quality
    goal = f"{_bound(report.goal)}; then {_objective(report.goal)}."
    if quality:
        yield (
            f"Decided on the validation split, where float has {100 * quality.value:.2f} %: {goal} "
            "The best of many looks better than it is: what it is worth, the test split says."
        )
    else:
        examples = f"{report.unquantized.examples:,} random examples"
        yield f"Decided on {examples}: {goal} Without labels there is no test split that the answer is checked on."
    what = "accuracy" if report.goal.criterion is Criterion.accuracy else "what is bounded"
    yield f"Front: it is on the Pareto front of {what} against latency, against size, or on both."
    yield from _end(report)
    if len(report.candidates) > ROWS:
        yield f"history.csv has all {len(report.candidates)} models, in the order in which they were tried."
    if report.checkpoint and quality:
        yield (
            f"The weights are those of {report.checkpoint}: if they were trained on the examples held out here, "
            "too small a loss is seen on them."
        )
    yield from variant_notes(report.reports, "history.csv", report.failed)


def _bound(goal: Goal) -> str:
    if goal.criterion is Criterion.agreement:
        return f"an agreement with float of {100 * goal.limit:.2f} % or more"
    if goal.criterion is Criterion.output_sqnr_db:
        return f"an output SQNR of {goal.limit:.1f} dB or more"
    lost = 100 * goal.limit
    return f"a loss of {lost:.2f} points or less" if lost >= 0 else f"a gain of {-lost:.2f} points or more"


def _objective(goal: Goal) -> str:
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


def _described(report: SearchReport, candidate: Candidate) -> str:
    """Name a network with what it loses, its speedup and its size."""
    size, choice = report.goal.batch_size, candidate.choice
    name = f"{choice.method} {candidate.report.precision} on {choice.name}" if candidate.report else FLOAT
    return (
        f"{name}, {value_text(report.goal.criterion, candidate.comparison)}, "
        f"{candidate.speedups[size]:.2f}x as fast at batch {size}, "
        f"{size_text(candidate.size_mb)} MB (float: {size_text(report.unquantized.size_mb)})"
    )


def _test_sentence(tested: Report) -> str:
    comparison, quality = compared(tested), tested.result.quality
    change = comparison.quality
    assert quality is not None and change is not None  # without labels nothing is tested
    speedups = "; ".join(f"B{speedup.batch_size} {speedup_text(speedup)}" for speedup in comparison.speedups)
    return (
        f"On the test split, which decided nothing: {quality_text(quality)} %, {points_text(-change.drop)} points "
        f"against float ({flips_text(change)}; exact McNemar test, {p_text(change.p_value)}); {speedups}."
    )
