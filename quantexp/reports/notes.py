"""Notes below tables: what the cells mean, on what the figures were taken, and what speaks against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from quantexp.results import Report

SIMULATED = "simulated"  # the precision of what is rounded and computed in float
EAGER = "eager"  # the runtime that goes without saying


def notes(reports: Sequence[Report]) -> Iterator[str]:
    """Say what the cells mean: what the deviation is taken over, the runtime, the threads, the data."""
    protocols = sorted({report.benchmark for report in reports})
    over = {"lab": "over single calls"}
    meaning = "; ".join(f"{name}: {over.get(name, 'over timed blocks of calls')}" for name in protocols)
    runtimes = sorted({report.runtime for report in reports})
    where = "" if runtimes == [EAGER] else f" in runtime {', '.join(runtimes)}"
    if any(report.result.latency for report in reports):
        threads = threads_of(reports)
        yield f"Latency: forward pass{where}, mean ± std ({meaning}), CPU threads: {threads}. [ ]: 95 % interval."
    yield from data_notes(reports)


def threads_of(reports: Sequence[Report]) -> str:
    """Return the numbers of threads that were measured with: `1, 2, 10`."""
    return ", ".join(str(count) for count in sorted({report.threads for report in reports}))


def data_notes(reports: Sequence[Report]) -> Iterator[str]:
    """Say what is known against the figures, and on which data they were taken."""
    if any(report.unstable for report in reports) and len(reports) > 1:
        yield "* unstable: the machine was not quiet meanwhile; the reasons stand in each run."
    sources = {report.data.source for report in reports}
    if "sample" in sources:
        yield "sample: the small data set in the package; its accuracies say nothing of the real one."
    if "synthetic" in sources:
        yield (
            "synthetic: random inputs without labels; there is no accuracy, agreement and SQNR compare the quantized "
            "network with float."
        )
    if validated := [report.data for report in reports if report.data.evaluation == "validation"]:
        what = "Accuracy" if len(validated) == len(reports) else "Where evaluation=validation: accuracy"
        counts = ", ".join(sorted({f"{data.validation:,}" for data in validated}))
        yield f"{what} on the validation split: {counts} examples held out of train."
    if any(report.calibration == "test" for report in reports):
        yield "Calibrated on the test split, as the lab allows."


def variant_notes(reports: Sequence[Report], file: str, failed: Mapping[str, str]) -> Iterator[str]:
    """Say of the variants of a study which could not be measured, and what the cells of the others mean.

    Args:
        reports: Of all variants; they share task, data and protocol.
        file: Has the intervals of the speedups.
        failed: The error of each variant that could not be measured.
    """
    for name, error in failed.items():
        yield f"Not measured: {name} ({error})."
    if unstable := sum(bool(report.unstable) for report in reports):
        yield (
            f"UNSTABLE in {unstable} of {len(reports)} runs: the machine was not quiet; the reasons stand in each run."
        )
    if any(report.result.latency for report in reports):
        yield (
            f"Speedup: against float, CPU threads: {threads_of(reports)}; faster or slower where the whole 95 % "
            f"interval says so. The intervals: {file}."
        )
    yield from data_notes(reports[:1])
