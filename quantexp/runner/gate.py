"""The gate: rules on a recorded run or on every run of a sweep, a line for each rule, and the exit status."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantexp.analysis.gate import FAIL, PASS, UNDECIDED, Judgement, Rules, differences, judge, measured_sizes, worst
from quantexp.results import Report
from quantexp.results.sweep import Entry, SweepResult
from quantexp.results.text import listed
from quantexp.system.errors import ConfigError, TrackingError
from quantexp.system.terminal import show
from quantexp.tracking.store import Store

RUN_ID = r"[0-9a-f]{32}"
STATUS = {PASS: 0, FAIL: 1, UNDECIDED: 3}
MOST_SHOWN = 10  # runs of a sweep that do not keep a rule; failed ones come first
WITHOUT_LABELS = "--min-agreement and --min-sqnr-db need no labels"


@dataclass(frozen=True)
class Judged:
    """What is judged: a run, or the runs of a sweep; `remaining` says what of a sweep has no result, and why."""

    name: str
    entries: tuple[Entry, ...]
    is_sweep: bool = False
    remaining: tuple[Judgement, ...] = ()


def gate(results: str, rules: Rules, uri: str | None, experiment: str, against: str | None = None) -> int:
    """Judge a run or a sweep, print a line for each rule, and return the exit status.

    Args:
        results: The id of a run, the name of a sweep, or the id of its run.
        rules: The bounds.
        uri: The store; None is ./mlflow.db.
        experiment: The MLflow experiment.
        against: The id of the run that accuracy drop and speedup are compared with; None for the bounds alone.

    Raises:
        QuantexpError: ConfigError if the rules cannot be applied, TrackingError if there is no such run, or it failed.
    """
    from quantexp.config import Server
    from quantexp.tracking.store import read_store

    if uri is not None:
        Server(experiment=experiment, uri=uri)  # checks the URI
    _check(rules, against)
    with read_store(uri, experiment) as store:
        judged = read_judged(store, results)
        other = None if against is None else _read_run(store, against)
    other_report = None if other is None else other.report
    quantized = quantized_entries(judged)
    check_labels([*quantized, *([other] if other else [])], rules)
    if other_report is not None:
        _check_comparable(quantized, other_report, str(against))
    check_sizes(quantized, rules)
    return STATUS[_show(judged, quantized, rules, other_report)]


def _check(rules: Rules, against: str | None) -> None:
    relative = rules.max_accuracy_drop is not None or rules.min_speedup is not None
    if against is not None and not relative:
        raise ConfigError("--against needs a rule that compares: --max-accuracy-drop or --min-speedup")
    if not relative and rules.max_size_mb is None and rules.min_agreement is None and rules.min_sqnr_db is None:
        raise ConfigError(
            "a gate needs at least one rule: --max-accuracy-drop, --min-speedup, --max-size-mb, --min-agreement or "
            "--min-sqnr-db"
        )
    if rules.batch_sizes and rules.min_speedup is None:
        raise ConfigError("--batch-size names the batch sizes of --min-speedup, which is missing; add it")


def read_judged(store: Store, results: str) -> Judged:
    """Return the run or the runs of the sweep that are judged. Raises TrackingError."""
    from quantexp.runner.sweep_results import read_sweep
    from quantexp.tracking.names import KIND

    run_id = results.removeprefix("runs:/")
    is_id = run_id != results or re.fullmatch(RUN_ID, results)
    if not is_id or store.run(run_id).tags.get(KIND) == "sweep":
        return _of_sweep(read_sweep(store, run_id))
    entry = _read_run(store, run_id)
    return Judged(entry.name, (entry,))


def _of_sweep(sweep: SweepResult) -> Judged:
    remaining = [Judgement("a result of every run", FAIL, f"{run.name} failed: {run.error}") for run in sweep.failed]
    remaining += [
        Judgement("a result of every run", UNDECIDED, f"{run.name} cannot be read: {run.reason}")
        for run in sweep.unreadable
    ]
    if sweep.left:
        text = f"{sweep.left} combination{'s' * (sweep.left != 1)} remain; run the sweep again to resume it"
        remaining.append(Judgement("a result of every run", UNDECIDED, text))
    return Judged(f"sweep {sweep.name}", sweep.entries, True, tuple(remaining))


def _read_run(store: Store, run_id: str) -> Entry:
    """Return a finished run that quantized. Raises TrackingError, ConfigError if there is nothing to judge."""
    from quantexp.runner.finished import read_report
    from quantexp.tracking.names import ERROR, KIND

    facts = store.run(run_id.removeprefix("runs:/"))
    if KIND in facts.tags:
        raise ConfigError(
            f"{facts.run_id} ({facts.name}) is the run of a {facts.tags[KIND]}; name a run that quantized"
        )
    if not facts.finished:
        error = f": {facts.tags[ERROR]}" if ERROR in facts.tags else ""
        raise TrackingError(
            f"only a finished run can be judged; {facts.run_id} ({facts.name}) is {facts.status}{error}"
        )
    report = read_report(store, facts)
    if report.comparison is None:
        raise ConfigError(
            f"a quantized network is judged, {facts.run_id} ({facts.name}) measured the float network alone "
            f"(quant={report.quant}); name a run that quantized"
        )
    return Entry(facts.run_id, facts.name, facts.params, report)


def quantized_entries(judged: Judged) -> list[Entry]:
    """Return the runs that quantized. Raises ConfigError if there is none, and none failed."""
    found = [entry for entry in judged.entries if entry.report and entry.report.comparison]
    if not found and not judged.remaining:
        raise ConfigError(f"quantized networks are judged, {judged.name} has none; name a run that quantized")
    return found


def check_labels(entries: Sequence[Entry], rules: Rules) -> None:
    """Raise ConfigError if a rule is on the accuracy of runs without labels."""
    if rules.max_accuracy_drop is None:
        return
    without = [entry.name for entry in entries if not (entry.report and entry.report.result.quality)]
    if without:
        raise ConfigError(
            f"a rule on accuracy needs labelled data, {listed(without, 3)} had no labels; {WITHOUT_LABELS}"
        )


def check_sizes(entries: Sequence[Entry], rules: Rules) -> None:
    """Raise ConfigError if no run was measured at a batch size that is named."""
    measured = sorted({size for entry in entries if entry.report for size in measured_sizes(entry.report)})
    if entries and (missing := [size for size in rules.batch_sizes if size not in measured]):
        raise ConfigError(
            f"--batch-size must be measured, {listed([str(size) for size in missing])} was not; measured: "
            f"{listed([str(size) for size in measured]) or 'none'}"
        )


def _check_comparable(entries: Sequence[Entry], other: Report, against: str) -> None:
    for report in (entry.report for entry in entries if entry.report):
        mine, theirs = (report.task, report.runtime), (other.task, other.runtime)
        if mine != theirs:
            raise ConfigError(
                "--against compares runs of one task in one runtime, where the float networks are the same kind; "
                f"got {' in '.join(mine)} and, in {against}, {' in '.join(theirs)}"
            )


def _show(judged: Judged, quantized: Sequence[Entry], rules: Rules, other: Report | None) -> str:
    """Show a line for each rule, and what differs from the other run; return the verdict over all."""
    by_rule: dict[str, list[tuple[Entry, Judgement]]] = {}
    for entry in quantized:
        assert entry.report is not None
        for judgement in judge(entry.report, rules, other):
            by_rule.setdefault(judgement.rule, []).append((entry, judgement))
    lines = [f"{judged.name}{f': {len(quantized)} quantized networks' if judged.is_sweep else ''}"]
    for found in by_rule.values():
        lines += _of_sweep_lines(found) if judged.is_sweep else [_line(judgement) for _, judgement in found]
    lines += [_line(judgement) for judgement in judged.remaining]
    if other is not None:
        told = dict.fromkeys(text for entry in quantized if entry.report for text in differences(entry.report, other))
        lines += [f"note       {text}" for text in told]
    show("\n".join(lines))
    return worst([*(judgement for found in by_rule.values() for _, judgement in found), *judged.remaining])


def _line(judgement: Judgement) -> str:
    return f"{judgement.verdict:<10} {judgement.rule}: {judgement.found}"


def _of_sweep_lines(found: Sequence[tuple[Entry, Judgement]]) -> Iterator[str]:
    """Yield a line for a rule with the number of runs that pass, then those that do not."""
    judgements = [judgement for _, judgement in found]
    passed = sum(judgement.verdict == PASS for judgement in judgements)
    yield _line(Judgement(judgements[0].rule, worst(judgements), f"{passed} of {len(found)} pass"))
    others = sorted((pair for pair in found if pair[1].verdict != PASS), key=lambda pair: pair[1].verdict != FAIL)
    for entry, judgement in others[:MOST_SHOWN]:
        yield f"             {judgement.verdict}: {entry.name} ({judgement.found})"
    if len(others) > MOST_SHOWN:
        yield f"             and {len(others) - MOST_SHOWN} more"
