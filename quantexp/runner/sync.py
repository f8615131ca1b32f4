"""Deliver results that their store did not take, from the folders and files in which they are kept."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantexp.config import Local, Server, Tracking
from quantexp.results import Report, parse_report
from quantexp.runner.artifacts import REPORT_FILE
from quantexp.system.cache import cache_folder
from quantexp.system.errors import ConfigError, TrackingError
from quantexp.system.passwords import without_password
from quantexp.system.terminal import show

REPORT = "quantexp-report-*.json"
MOST_BYTES = 2**28  # of a report


def sync(paths: Sequence[Path], uri: str | None, experiment: str | None, cache_dir: str | None) -> None:
    """Deliver kept results, and say what was delivered.

    Args:
        paths: Folders of kept results, kept results, or files of reports; none: the outbox in the cache folder.
        uri: The store; None is that of each result.
        experiment: The experiment; None is that of each result.
        cache_dir: The cache folder; None is the default one.

    Raises:
        ConfigError: If a path is neither of these.
        TrackingError: If a result cannot be delivered; the others are delivered.
    """
    from quantexp.tracking.outbox import read

    places = list(paths) or [cache_folder(cache_dir, "outbox")]
    found = [result for path in places for result in _results(path)]
    count, problems = 0, []
    for path in found:
        try:
            if path.is_dir():
                record = read(path)
                tracking = _tracking(uri or _known(record.uri), experiment or record.experiment)
                count += _deliver_kept(path, tracking)
            else:
                tracking = _tracking(uri, experiment or Tracking.experiment)
                count += _deliver_report(path, tracking)
        except TrackingError as error:
            if str(error) not in problems:  # of a store that does not answer: the same for each of its results
                problems.append(str(error))
    show(f"{count} of {len(found)} results delivered" if found else f"nothing waits in {', '.join(map(str, places))}")
    if problems:
        raise TrackingError("\n".join(problems))


def _results(path: Path) -> Iterator[Path]:
    """Yield the kept results in a folder, the oldest first, or the file of a report."""
    from quantexp.tracking.outbox import RECORD_FILE, folders

    if path.is_file() or (path / RECORD_FILE).is_file():
        yield path
    elif path.is_dir():
        kept = [folder for folder in folders(path) if (folder / RECORD_FILE).is_file()]
        yield from sorted(kept, key=_started)
    else:
        raise ConfigError(f"{path} does not exist; name a kept result, a folder of them, or a file {REPORT}")


def _started(folder: Path) -> int:
    from quantexp.tracking.outbox import read

    try:
        return read(folder).started_ms
    except TrackingError:
        return 0  # said when it is its turn


def _known(address: str) -> str:
    """Return the address of a store, with the user and password that MLFLOW_TRACKING_URI has for it."""
    from quantexp.tracking.address import bare

    environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    return environment if environment and bare(environment) == address else address


def _tracking(uri: str | None, experiment: str) -> Tracking:
    return Local(experiment=experiment) if uri is None else Server(experiment=experiment, uri=uri)


def _deliver_kept(folder: Path, tracking: Tracking) -> bool:
    """Deliver a kept result; False if another process does."""
    from quantexp.tracking.delivery import deliver_kept
    from quantexp.tracking.outbox import take
    from quantexp.tracking.store import open_store

    store = open_store(tracking)
    if (kept := take(folder)) is None:
        return False
    try:
        name = kept.record.name
        deliver_kept(kept, store)
    finally:
        kept.release()
    show(f"delivered: {name} to {without_password(store.uri)}, run {kept.record.run_id}")
    return True


def _deliver_report(path: Path, tracking: Tracking) -> bool:
    """Deliver the report of a result that could not be recorded; its file stays."""
    content = _content(path)
    try:
        report = parse_report(content)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise TrackingError(f"{path} is not a report of quantexp ({reason}); name a file {REPORT}") from error
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        return _deliver_kept(_keep(Path(scratch), report, content, path, tracking), tracking)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise TrackingError(f"{path} has more than {MOST_BYTES:,} bytes; name a file {REPORT}")
        return path.read_bytes()
    except OSError as error:
        raise TrackingError(f"{path} is not readable ({error.strerror or error})") from error


def _keep(outbox: Path, report: Report, content: bytes, path: Path, tracking: Tracking) -> Path:
    """Keep a report, and return its folder. Its id is the digest of the file, so that it is delivered once."""
    from quantexp.reports.table import comparison_table
    from quantexp.runner.tracked import points_of
    from quantexp.tracking.address import bare
    from quantexp.tracking.names import NOTE, as_note
    from quantexp.tracking.outbox import Record, Sample, keep

    written_ms = int(path.stat().st_mtime * 1000)
    digest = hashlib.sha256(content).hexdigest()
    table = comparison_table(report).markdown()
    kept = keep(
        outbox,
        Record(
            uri=bare(tracking.uri),
            experiment=tracking.experiment,
            name=f"{report.task}-{report.quant} (only its report)",
            process="",
            started_ms=written_ms,
            id=digest[:32],
            tags={NOTE: as_note(table), "data_fingerprint": report.data.fingerprint},
            samples=[Sample(*point, written_ms) for point in points_of(report)],
            status="FINISHED",
            ended_ms=written_ms,
        ),
    )
    (kept.files / REPORT_FILE).write_bytes(content)
    (kept.files / "table.md").write_text(table, encoding="utf-8")
    kept.write()
    kept.release()
    return kept.folder
