"""Stored networks of recorded runs: to load them, or to start a run from their weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.config import Experiment, ModelReference
from quantexp.system.errors import TrackingError, TrainingError

if TYPE_CHECKING:
    from quantexp.storage.prediction import StoredModel
    from quantexp.tracking.store import Store

AGAIN = "register a network again with python -m quantexp.register SWEEP"


def load(run_or_path: str | Path, *, tracking_uri: str | None = None, trust: bool = False) -> StoredModel:
    """Build a stored network again, ready to predict on the CPU, in the runtime of its run if that executes a file.

    Args:
        run_or_path: The id of an MLflow run, also as runs:/RUN_ID, what is registered as models:/NAME@ALIAS or
            models:/NAME/VERSION, or a folder that holds `recipe.json`.
        tracking_uri: The store of the run; by default ./mlflow.db.
        trust: Also build your own network and task: their modules are imported, which runs their code.

    Raises:
        ModelError: If there is no such network, it is damaged, quantexp did not write it, or it needs `trust`.
        QuantizationError: If this machine lacks the engine of the network.
        ConfigError: If the packages of its runtime are not installed.
        BenchmarkError: If its runtime cannot execute it here, or computes something else.
        TrackingError: If the run cannot be read, or there is no such name in the registry.
    """
    from quantexp.storage import stored as storage

    reference = str(run_or_path).removeprefix("runs:/")
    registered = ModelReference.parse(reference) is not None
    if not registered and (Path(run_or_path).exists() or len(Path(reference).parts) > 1):
        return storage.load_executed(run_or_path, trust=trust)
    with model_folder(reference, tracking_uri) as folder:
        return storage.load_executed(folder, trust=trust)


@contextmanager
def model_folder(reference: str, uri: str | None) -> Iterator[Path]:
    """Yield a folder with the files of the network that a run stored.

    Args:
        reference: The id of the run, or what is registered as models:/NAME@ALIAS or models:/NAME/VERSION.
        uri: The store; None is ./mlflow.db.

    Raises:
        TrackingError: If there is no such run or version, or its network was not stored, or is another one now.
    """
    from quantexp.storage.recipe import FILES
    from quantexp.tracking.store import read_store

    with read_store(uri) as store, stored_files(store, reference, FILES) as folder:
        yield folder


@contextmanager
def stored_files(store: Store, reference: str, names: Mapping[str, int]) -> Iterator[Path]:
    """Yield a folder with some files of a network that `model_folder` names, each with the most bytes it may have.

    Raises:
        TrackingError: As `model_folder`.
    """
    from quantexp.runner.artifacts import MODEL
    from quantexp.state.files import RECIPE, sha256
    from quantexp.tracking import registry
    from quantexp.tracking.artifacts import fetched, why_missing
    from quantexp.tracking.names import WITHOUT_MODEL

    named = ModelReference.parse(reference)
    version = registry.find(store, named) if named else None
    if version is None:
        run = store.run(reference)
    else:
        try:
            run = store.run(version.run_id)
        except TrackingError as error:
            raise TrackingError(
                f"{reference} is version {version.number} of {version.name}: {error}; {AGAIN}"
            ) from error
    if WITHOUT_MODEL in run.tags:
        raise TrackingError(
            f"run {run.run_id} was recorded with tracking.store_model=false, so its network cannot be loaded or "
            "started from; run it again with tracking.store_model=true"
        )
    with fetched(store, run, {f"{MODEL}/{name}": most for name, most in names.items()}) as folder:
        what = f"{reference}, version {version.number}: " if version else ""
        if not (folder / RECIPE).is_file():
            raise TrackingError(
                f"{what}{MODEL}/{RECIPE} of run {run.run_id} cannot be read ({why_missing(store, run)})"
            )
        if version and version.tags.get(registry.CONTENT, "") not in ("", sha256(folder / RECIPE)):
            raise TrackingError(f"{what}the network of run {run.run_id} is not the one that was registered; {AGAIN}")
        yield folder


def registered_weights(experiment: Experiment) -> str | None:
    """Return the SHA-256 of the weights that `train.checkpoint` names in the registry, None if it names none there.

    It is what the recipe of the network says, which is compared with the weights when they are read.

    Raises:
        TrackingError: If there is no such network.
    """
    from quantexp.state.files import RECIPE
    from quantexp.tracking.store import read_store

    if experiment.train.checkpoint_model is None:
        return None
    reference = str(experiment.train.checkpoint)
    with read_store(experiment.tracking.uri) as store:
        _refuse_quantized(store, experiment.train.checkpoint_model)
        with stored_files(store, reference, {RECIPE: 2**20}) as folder:
            recipe = (folder / RECIPE).read_text(encoding="utf-8")
        try:
            return str(json.loads(recipe)["files"]["state"]["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise TrackingError(
                f"{reference}: {RECIPE} is damaged, or from quantexp 0.1; run it again, and {AGAIN}"
            ) from error


def pinned(experiment: Experiment) -> Experiment:
    """Return the experiment with the version in place of an alias in `train.checkpoint`, as an alias may be moved.

    Raises:
        TrackingError: If there is no such alias.
    """
    from quantexp.tracking import registry
    from quantexp.tracking.store import read_store

    named = experiment.train.checkpoint_model
    if named is None or not named.alias:
        return experiment
    with read_store(experiment.tracking.uri) as store:
        version = registry.find(store, named)
    checkpoint = str(ModelReference(version.name, version=version.number))
    return replace(experiment, train=replace(experiment.train, checkpoint=checkpoint))


@contextmanager
def checkpoint_folder(experiment: Experiment) -> Iterator[Path | None]:
    """Yield the folder of the stored network in `train.checkpoint`; None if that names no run and nothing registered.

    Raises:
        TrackingError: If it cannot be read.
    """
    from quantexp.tracking.store import read_store

    train = experiment.train
    reference = str(train.checkpoint) if train.checkpoint_model else train.checkpoint_run
    if reference is None:
        yield None
        return
    if train.checkpoint_model:
        with read_store(experiment.tracking.uri) as store:
            _refuse_quantized(store, train.checkpoint_model)
    with model_folder(reference, experiment.tracking.uri) as folder:
        yield folder


def _refuse_quantized(store: Store, reference: ModelReference) -> None:
    """Raise TrainingError if a registered network is quantized, and its float network is known."""
    from quantexp.tracking import registry

    version = registry.find(store, reference)
    if float_run := version.tags.get(registry.FLOAT_RUN):
        raise TrainingError(
            f"train.checkpoint must name float weights, {reference} is quantized (version {version.number}, quant="
            f"{version.tags.get('quant', 'unknown')}); start from its float network with train.checkpoint=runs:/"
            f"{float_run}, or predict with quantexp.load('{reference}')"
        )
