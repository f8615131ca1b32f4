"""The network of a recorded run, written for other programs."""

from __future__ import annotations

from pathlib import Path

from quantexp.results import Report
from quantexp.system.terminal import show


def export(run: str, target: str, out: Path, *, uri: str | None, trust: bool) -> None:
    """Write the network of a run, or of a folder that holds `recipe.json`, in the format `target`.

    Raises:
        QuantexpError: TrackingError if the run cannot be read; ModelError, ConfigError or BenchmarkError if its network
            cannot be written in this format.
    """
    from quantexp.runner.finished import read_report
    from quantexp.runner.load import model_folder
    from quantexp.storage.export import README
    from quantexp.storage.export import export as write
    from quantexp.tracking.store import read_store

    if Path(run).is_dir():
        difference = write(Path(run), target, out, [], trust=trust)
    else:
        run_id = run.removeprefix("runs:/")
        with read_store(uri) as store:
            facts = _facts(read_report(store, store.run(run_id)), run_id)
        with model_folder(run_id, uri) as folder:
            difference = write(folder, target, out, facts, trust=trust)
    for path in sorted(out.iterdir()):
        show(f"{path}  {path.stat().st_size:,} bytes")
    show(f"checked in a new process by the lines of {out / README}: largest difference {difference:.2g}")


def _facts(report: Report, run_id: str) -> list[str]:
    """Return what the run says of its network, a sentence each."""
    facts = [f"Run {run_id}, seed {report.seed}, task {report.task_name}."]
    quality, before = report.result.quality, report.baseline.quality
    if quality and before:
        facts.append(
            f"{quality.name.capitalize()}: {100 * quality.value:.2f} % (95 % interval {100 * quality.low:.2f} to "
            f"{100 * quality.high:.2f}) on {quality.total:,} examples of the {report.data.evaluation} split; "
            f"{100 * before.value:.2f} % in float."
        )
    return facts
