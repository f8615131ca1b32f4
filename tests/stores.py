"""Runs in a store whose results are given, without the minutes that real ones take."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

from quantexp.results import Report
from quantexp.results.metrics import metrics
from quantexp.runner.artifacts import REPORT_FILE
from quantexp.tracking.names import CONFIGURATION, IDENTITY, PARENT
from quantexp.tracking.run import Point, track
from quantexp.tracking.store import Store


def record(store: Store, made: Report | None, name: str, parent: str | None = None, **settings: str) -> str:
    """Record a run with a report, or one that failed; return its id. `train__epochs="2"` is one of its settings."""
    params = {key.replace("__", "."): value for key, value in settings.items()}
    if made is not None:
        shown = {"task": made.task, "model": made.model, "quant": made.quant, "precision": made.precision}
        params = {**shown, "runtime": made.runtime, "seed": str(made.seed), **params}
    tags = {CONFIGURATION: uuid.uuid4().hex, **({PARENT: parent} if parent else {})}
    run = None
    try:
        with track(store, name, params, tags) as run:
            if made is None:
                raise ValueError("the loss became nan")
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / REPORT_FILE).write_text(made.to_json(), encoding="utf-8")
                points = [Point(key, value) for key, value in metrics(made).items()]
                run.log(points, {IDENTITY: uuid.uuid4().hex}, folder=Path(folder))
    except ValueError:
        pass
    assert run is not None
    return run.run_id
