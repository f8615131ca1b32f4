"""Runs in a store whose results are given, without the minutes that real ones take."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

from quantexp.mission import RunResult
from quantexp.results import Report
from quantexp.results.metrics import metrics
from quantexp.runner.artifacts import MODEL, REPORT_FILE
from quantexp.storage.stored import save
from quantexp.tracking.names import CONFIGURATION, IDENTITY, NOT_STORED, PARENT, WITHOUT_MODEL
from quantexp.tracking.run import Point, track
from quantexp.tracking.store import Store


def record(
    store: Store,
    made: Report | None,
    name: str,
    parent: str | None = None,
    network: RunResult | None = None,
    **settings: str,
) -> str:
    """Record a run with a report, or one that failed; return its id. `train__epochs="2"` is one of its settings.

    A run with the result of a real one stores its network, one without says that its network was not stored.
    """
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
                if network is not None:
                    save(Path(folder) / MODEL, network.model, network.recipe)
                without = {} if network else {WITHOUT_MODEL: NOT_STORED}
                run.log(points, {IDENTITY: uuid.uuid4().hex, **without}, folder=Path(folder))
    except ValueError:
        pass
    assert run is not None
    return run.run_id
