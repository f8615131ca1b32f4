"""Notes below tables: what the cells mean, which data were used, and what limits the figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from quantexp.results import Measured, Report

SIMULATED = "simulated"  # the precision of what is rounded and computed in float
EAGER = "eager"  # the default runtime, which is not mentioned


def notes(reports: Sequence[Report]) -> Iterator[str]:
    """Yield what the cells mean: samples of the standard deviation, runtime, threads, data."""
    protocols = sorted({report.benchmark for report in reports})
    over = {"lab": "over single calls"}
    meaning = "; ".join(f"{name}: {over.get(name, 'over timed blocks of calls')}" for name in protocols)
    runtimes = sorted({report.runtime for report in reports})
    where = "" if runtimes == [EAGER] else f" in runtime {', '.join(runtimes)}"
    if any(report.result.latency for report in reports):
        threads = threads_of(reports)
        yield f"Latency: forward pass{where}, mean ± std ({meaning}), CPU threads: {threads}. [ ]: 95 % interval."
    yield flops_note(reports)
    yield from _energy_notes(reports)
    yield from data_notes(reports)


def memory_notes(models: Iterable[Measured]) -> Iterator[str]:
    """Yield what the memory is, if it was measured."""
    if any(model.memory_bytes is not None for model in models):
        yield (
            "Memory: peak of a new process that loads the network and predicts one batch of the largest size, minus "
            "that of one that only imports torch; in a runtime with an exported file: of one that loads this file "
            "without quantexp, minus that of one that only imports numpy and the runtime."
        )


def flops_note(reports: Sequence[Report]) -> str:
    """Return what the number of floating-point operations counts, and why it can be unknown."""
    known = "MFLOPs: of the float network for one example, in millions; a multiply-accumulate is two."
    if all(report.flops is not None for report in reports):
        return known
    return f"{known} unknown: the network has operators that the account cannot count."


def _energy_notes(reports: Sequence[Report]) -> Iterator[str]:
    """Yield what the energy is, if there is any, and why some runs have none."""
    timed = [report for report in reports if report.result.latency]
    if not any(latency.energy for report in timed for latency in report.result.latency):
        return
    yield (
        "Energy: of all CPU packages for one example, with what other processes use; x: energy of float over that of "
        "the quantized network."
    )
    if without := [report for report in timed if report.no_energy]:
        reasons = "; ".join(dict.fromkeys(report.no_energy for report in without))
        yield f"Energy, empty: not measured in {len(without)} of {len(timed)} runs ({reasons})."


def threads_of(reports: Sequence[Report]) -> str:
    """Return the numbers of threads in use, such as `1, 2, 10`."""
    return ", ".join(str(count) for count in sorted({report.threads for report in reports}))


def data_notes(reports: Sequence[Report]) -> Iterator[str]:
    """Yield the limits of the figures, and which data were used."""
    if any(report.unstable for report in reports) and len(reports) > 1:
        yield "* unstable: something disturbed the measurement; each run lists the reasons."
    if len(reports) > 1 and (found := sum(bool(report.findings) for report in reports)):
        yield f"FINDINGS of self-checks in {found} of {len(reports)} runs: each run lists them."
    sources = {report.data.source for report in reports}
    if "sample" in sources:
        yield "sample: the small data set in the package; accuracy on it does not transfer to the full data set."
    if "synthetic" in sources:
        yield (
            "synthetic: random inputs without labels; there is no accuracy, agreement and SQNR compare the quantized "
            "network with float."
        )
    if any(report.data.drawn for report in reports):
        yield "training examples: drawn from the training split with the seed of the run (train.examples)."
    if validated := [report.data for report in reports if report.data.evaluation == "validation"]:
        what = "Accuracy" if len(validated) == len(reports) else "With evaluation=validation: accuracy"
        counts = ", ".join(sorted({f"{data.validation:,}" for data in validated}))
        yield f"{what} on the validation split: {counts} examples held out of the training split."
    if any(report.calibration == "test" for report in reports):
        yield "Calibrated on the test split."


def variant_notes(
    reports: Sequence[Report], file: str, failed: Mapping[str, str], reference: str = "float"
) -> Iterator[str]:
    """Yield which variants of a study could not be measured, and what the cells of the others mean.

    Args:
        reports: Of all variants; they share task, data and protocol.
        file: The CSV file with the intervals of the speedups.
        failed: The error of each variant that could not be measured.
        reference: What the speedups are over.
    """
    for name, error in failed.items():
        yield f"Not measured: {name} ({error})."
    if unstable := sum(bool(report.unstable) for report in reports):
        yield f"UNSTABLE in {unstable} of {len(reports)} runs: something disturbed them; each run lists the reasons."
    if any(report.result.latency for report in reports):
        yield (
            f"Speedup: over {reference}, CPU threads: {threads_of(reports)}; faster or slower only if significant "
            f"(95 % intervals: {file})."
        )
    yield from data_notes(reports[:1])
