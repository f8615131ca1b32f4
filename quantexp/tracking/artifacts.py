"""What is read back from a store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantexp.errors import TrackingError
from quantexp.tracking.store import quiet_client, resolve_uri, sqlite_path


@contextmanager
def model_folder(run_id: str, uri: str | None) -> Iterator[Path]:
    """Give a folder with the stored model of a run. Raises TrackingError."""
    where = resolve_uri(uri or "sqlite:///mlflow.db")
    path = sqlite_path(where)
    if path is not None and not path.is_file():
        raise TrackingError(
            f"{run_id} is neither a folder with a stored model nor a run: there is no store {path}; "
            "start where it lies, or give tracking_uri="
        )
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        try:
            folder = quiet_client(where).download_artifacts(run_id, "model", scratch)
        except Exception as error:  # MLflow raises whatever its stores raise
            reason = " ".join(str(error).split())[:300]
            raise TrackingError(f"no model of run {run_id} can be read from {where} ({reason})") from error
        yield Path(folder)
