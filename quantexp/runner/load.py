"""Stored networks of recorded runs: to load them, or to start a run from their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.config import Experiment
from quantexp.system.errors import TrackingError

if TYPE_CHECKING:
    from quantexp.storage.prediction import StoredModel


def load(run_or_path: str | Path, *, tracking_uri: str | None = None, trust: bool = False) -> StoredModel:
    """Build a stored network again, ready to predict on the CPU, in the runtime of its run if that executes a file.

    Args:
        run_or_path: The id of an MLflow run, also as runs:/RUN_ID, or a folder that holds `recipe.json`.
        tracking_uri: The store of the run; by default ./mlflow.db.
        trust: Also build your own network and task: their modules are imported, which runs their code.

    Raises:
        ModelError: If there is no such network, it is damaged, quantexp did not write it, or it needs `trust`.
        QuantizationError: If this machine lacks the engine of the network.
        ConfigError: If the packages of its runtime are not installed.
        BenchmarkError: If its runtime cannot execute it here, or computes something else.
        TrackingError: If the run cannot be read.
    """
    from quantexp.storage import stored as storage

    run_id = str(run_or_path).removeprefix("runs:/")
    if Path(run_or_path).exists() or len(Path(run_id).parts) > 1:
        return storage.load_executed(run_or_path, trust=trust)
    with model_folder(run_id, tracking_uri) as folder:
        return storage.load_executed(folder, trust=trust)


@contextmanager
def model_folder(run_id: str, uri: str | None) -> Iterator[Path]:
    """Yield a folder with the files of the network that a run stored. Raises TrackingError."""
    from quantexp.runner.artifacts import MODEL
    from quantexp.state.checkpoint import RECIPE
    from quantexp.storage.recipe import FILES
    from quantexp.tracking.artifacts import fetched, why_missing
    from quantexp.tracking.names import WITHOUT_MODEL
    from quantexp.tracking.store import read_store

    files = {f"{MODEL}/{name}": most for name, most in FILES.items()}
    with read_store(uri) as store:
        run = store.run(run_id)
        if WITHOUT_MODEL in run.tags:
            raise TrackingError(
                f"run {run_id} was recorded with tracking.store_model=false, so its network cannot be loaded or "
                "started from; run it again with tracking.store_model=true"
            )
        with fetched(store, run, files) as folder:
            if not (folder / RECIPE).is_file():
                raise TrackingError(f"{MODEL}/{RECIPE} of run {run_id} cannot be read ({why_missing(store, run)})")
            yield folder


@contextmanager
def checkpoint_folder(experiment: Experiment) -> Iterator[Path | None]:
    """Yield the folder of the network of the run in `train.checkpoint`; None if that names no run.

    Raises:
        TrackingError: If the run cannot be read.
    """
    run_id = experiment.train.checkpoint_run
    if run_id is None:
        yield None
        return
    with model_folder(run_id, experiment.tracking.uri) as folder:
        yield folder
