"""The best network of a sweep under a rule: the smallest or the fastest of those that keep some bounds.

Bounds are decided by their intervals, as in the gate: a network that may break one is left out. Speed is the paired
speedup over the float network in eager execution, which every run has; latencies of two runs are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quantexp.analysis.gate import PASS, Rules, judge, speedup_at, speedup_text
from quantexp.config import WEIGHTS, Eager, affects
from quantexp.results import Report, Speedup
from quantexp.results.comparison import FASTER, decided
from quantexp.results.sweep import Entry, SweepResult
from quantexp.results.text import listed, size_text
from quantexp.system.errors import ConfigError, QuantexpError

SMALLEST, FASTEST = "smallest", "fastest"
EAGER = Eager.name
ONE_OF_MANY = "choose with --where SETTING=VALUE, such as --where"


@dataclass(frozen=True)
class Selection:
    """The network that was selected, why, and each other run of the sweep with the reason why it was not."""

    entry: Entry
    why: str
    left_out: tuple[tuple[str, str], ...]


def select(sweep: SweepResult, rule: str, bounds: Rules, size: int | None = None) -> Selection:
    """Return the best quantized network of a sweep.

    Args:
        sweep: Its runs, of one task; for the fastest, of one float network on one machine too.
        rule: "smallest" or "fastest".
        bounds: What the network must keep.
        size: The batch size that the fastest is fastest at; None is the only measured one, or 1.

    Raises:
        ConfigError: If the runs cannot be compared under the rule.
        QuantexpError: If no network keeps the bounds.
    """
    left_out = [(entry.name, f"failed: {entry.error}") for entry in sweep.failed]
    left_out += [(entry.name, f"cannot be read: {entry.reason}") for entry in sweep.unreadable]
    candidates: list[tuple[Entry, Report]] = []
    for entry in sweep.entries:
        if entry.report and entry.report.comparison:
            candidates.append((entry, entry.report))
        elif entry.report:
            left_out.append((entry.name, "it measured the float network alone"))
    if not candidates:
        raise ConfigError(f"a quantized network is registered, the sweep {sweep.name} has none that finished")
    _check_alike([report for _, report in candidates], [entry for entry, _ in candidates], rule)
    if rule == FASTEST:
        size = _batch_size([report for _, report in candidates], size)
    kept: list[tuple[Entry, Report]] = []
    for entry, report in candidates:
        if reason := _reason(report, bounds, size if rule == FASTEST else None):
            left_out.append((entry.name, reason))
        else:
            kept.append((entry, report))
    if not kept:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in left_out)
        raise QuantexpError(f"no network of the sweep {sweep.name} keeps the bounds, so nothing is registered\n{lines}")
    return _best(kept, left_out, rule, size)


def float_run(sweep: SweepResult, chosen: Entry) -> Entry | None:
    """Return the run of a sweep that measured the float network which `chosen` quantized; None without one."""
    for entry in sweep.entries:
        if entry.report and entry.report.comparison is None and _of_weights(entry) == _of_weights(chosen):
            return entry
    return None


def _of_weights(entry: Entry) -> dict[str, str]:
    """Return the settings that the float weights depend on."""
    return {
        name: value
        for name, value in entry.settings.items()
        if not name.startswith("quant") and affects(name) is WEIGHTS
    }


def _check_alike(reports: Sequence[Report], entries: Sequence[Entry], rule: str) -> None:
    """Raise ConfigError if the runs are not of one task or, for the fastest, not of one network and machine."""
    tasks = list(dict.fromkeys(report.task for report in reports))
    if len(tasks) > 1:
        raise ConfigError(f"networks of one task are compared, got {listed(tasks)}; {ONE_OF_MANY} task={tasks[0]}")
    if rule != FASTEST:
        return
    machines = list(dict.fromkeys(f"{report.host} ({report.machine})" for report in reports))
    if len(machines) > 1:
        raise ConfigError(f"speedups of one machine are compared, got {listed(machines)}; register from one of them")
    names = sorted({name for entry in entries for name in entry.settings if name.partition(".")[0] == "model"})
    for name in [*names, "benchmark.threads"]:
        values = list(dict.fromkeys(entry.settings.get(name, "") for entry in entries))
        if len(values) > 1:
            raise ConfigError(
                f"the fastest is one of quantized forms of one float network at the same threads, here {name} is "
                f"{listed(values)}; {ONE_OF_MANY} {name}={values[0]}, or use --rule smallest"
            )


def _batch_size(reports: Iterable[Report], size: int | None) -> int:
    measured = sorted({speedup.batch_size for report in reports for speedup in _over_eager(report)})
    if size is None and measured:
        size = 1 if 1 in measured else measured[0] if len(measured) == 1 else None
    if size not in measured or size is None:
        known = listed([str(number) for number in measured]) or "none"
        raise ConfigError(f"the fastest is chosen at a measured batch size, got {size}; measured: {known}")
    return size


def _over_eager(report: Report) -> tuple[Speedup, ...]:
    """Return the speedups over the float network in eager execution."""
    if report.runtime == EAGER:
        return report.comparison.speedups if report.comparison else ()
    return next((other.quantized_speedups for other in report.others if other.runtime == EAGER), ())


def _fast(report: Report, size: int) -> Speedup | None:
    return next((speedup for speedup in _over_eager(report) if speedup.batch_size == size), None)


def _reason(report: Report, bounds: Rules, size: int | None) -> str:
    """Return why a network is left out, empty if it is not; `size` is the batch size if the fastest is selected."""
    for judgement in judge(report, bounds):
        if judgement.verdict != PASS:
            return f"{judgement.rule}: {judgement.verdict}, {judgement.found}"
    if size is None:
        return ""
    speedup = _fast(report, size)
    if speedup is None:
        return f"not measured at batch {size}"
    if reasons := [reason for timed in report.conditions if timed.batch_size == size for reason in timed.unstable]:
        return f"its latency at batch {size} is unstable: {'; '.join(reasons)}"
    if speedup.word != FASTER:
        return f"not significantly faster than float in eager execution: {speedup_text(speedup)}, {speedup.word}"
    return ""


def _best(kept: list[tuple[Entry, Report]], left_out: list[tuple[str, str]], rule: str, size: int | None) -> Selection:
    """Order what is kept; the others get the reason why they are not first."""

    def order(pair: tuple[Entry, Report]) -> tuple[float, float, str]:
        entry, report = pair
        speedup = _fast(report, size) if rule == FASTEST and size else None
        return -speedup.ratio if speedup else report.result.size_mb, _loss(report), entry.name

    (entry, report), *others = sorted(kept, key=order)
    for other, second in others:
        left_out.append((other.name, _behind(second, report, rule, size)))
    what = "the only network that keeps" if not others else f"the {rule} of {len(kept)} networks that keep"
    at = f" at batch {size}" if rule == FASTEST else ""
    return Selection(entry, f"{what} the bounds{at}: {figures(report, size)}", tuple(left_out))


def _loss(report: Report) -> float:
    comparison = report.comparison
    assert comparison is not None
    return comparison.quality.drop if comparison.quality else 1 - comparison.agreement


def _behind(report: Report, best: Report, rule: str, size: int | None) -> str:
    """Return why a network that keeps the bounds is not the best one."""
    if rule == SMALLEST or size is None:
        equal = report.result.size_mb == best.result.size_mb
        return f"equal in size, {_loss_text(report)}" if equal else f"larger: {size_text(report.result.size_mb)} MB"
    first, second = _fast(best, size), _fast(report, size)
    assert first is not None and second is not None
    if None in (first.low, first.high, second.low, second.high):
        return f"slower: {speedup_text(second)}"
    reach = math.hypot(*(math.log(one.high / one.low) / 2 for one in (first, second) if one.low and one.high))
    centre = math.log(first.ratio / second.ratio)
    word = decided(math.exp(centre - reach), math.exp(centre + reach), max(first.margin, second.margin))
    note = "" if word == FASTER else " (no significant difference)"
    return f"slower: {speedup_text(second)}{note}"


def _loss_text(report: Report) -> str:
    comparison = report.comparison
    assert comparison is not None
    if comparison.quality is None:
        return f"agreement {100 * comparison.agreement:.2f} %"
    return f"accuracy drop {comparison.quality.drop:.4f}"


def figures(report: Report, size: int | None = None) -> str:
    """Return the figures of a quantized network: size, loss and, at a batch size, the speedup."""
    texts = [f"{size_text(report.result.size_mb)} MB", _loss_text(report)]
    for number in [size] if size else [1]:
        if speedup := _fast(report, number) or speedup_at(report, number):
            texts.append(f"speedup {speedup_text(speedup)} at batch {number}")
    return ", ".join(texts)
