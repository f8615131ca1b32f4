"""Where runs are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from quantexp.config.option import NOTHING, Affects, Option, option


@dataclass
class Tracking(Option):
    """An MLflow store."""

    group: ClassVar[str] = "tracking"
    choice_affects: ClassVar[Affects] = NOTHING

    experiment: str = option("name of the MLflow experiment", "quantexp", affects=NOTHING)
    uri: str | None = option("MLflow tracking URI", None, affects=NOTHING)
    store_model: bool = option(
        "store the network of a run; false saves its size, but the run cannot be loaded or started from",
        True,
        affects=NOTHING,
    )

    keep_in: str | None = option(
        "folder whose subfolder outbox keeps results until the store takes them; null: your cache directory",
        None,
        affects=NOTHING,
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not self.experiment.strip():
            yield f"tracking.experiment must name an experiment, got {self.experiment!r}"


@dataclass
class Local(Tracking):
    """SQLite in the working directory: `mlflow ui` typed there shows the runs."""

    name: ClassVar[str] = "local"

    uri: str | None = option(
        "always the SQLite file mlflow.db of the working directory", "sqlite:///mlflow.db", affects=NOTHING
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.uri != "sqlite:///mlflow.db":
            yield (
                f"tracking=local always records in ./mlflow.db, got tracking.uri={self.uri!r}; "
                "to record elsewhere use tracking=server tracking.uri=URI"
            )


@dataclass
class Server(Tracking):
    """An MLflow server, or any other tracking URI; checked before training starts."""

    name: ClassVar[str] = "server"

    uri: str | None = option(
        "http://host:5000, postgresql://..., sqlite:////path.db; default $MLFLOW_TRACKING_URI", None, affects=NOTHING
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not self.uri:
            yield (
                "tracking=server needs an address, got none; give tracking.uri=http://host:5000 "
                "or set MLFLOW_TRACKING_URI"
            )
        elif "://" not in self.uri:
            yield f"tracking.uri must be a URI such as http://host:5000 or sqlite:////path.db, got {self.uri!r}"
