"""The address of a store: what it names, and whether a server answers."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path

from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password

DATABASE = "mlflow.db"  # of a store in a folder
HEALTH_SECONDS = 2.0


def resolve_uri(uri: str) -> str:
    """Return the URI with a relative SQLite path made absolute."""
    path = sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the file that a SQLite URI names, None for other URIs."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///")).absolute()


def store_uri(text: str) -> str:
    """Return the tracking URI of a store that is named by its URI, its SQLite file, or the folder of its `mlflow.db`.

    Raises:
        TrackingError: If there is no such file, or the folder has no store.
    """
    path = sqlite_path(text) or (None if "://" in text else Path(text).expanduser().absolute())
    if path is None:
        return text
    repair = f"name a SQLite file, a folder that holds {DATABASE}, or a tracking URI such as http://host:5000"
    try:
        if path.is_dir():
            if not (path / DATABASE).is_file():
                raise TrackingError(f"the folder of a store must hold {DATABASE}, {path.resolve()} does not; {repair}")
            path /= DATABASE
        path = path.parent.resolve() / path.name
        if not path.is_file():
            raise TrackingError(f"there is no store {path}; {repair}")
    except OSError as error:
        raise TrackingError(f"the store {path} is not readable ({error.strerror or error}); {repair}") from error
    return f"sqlite:///{path}"


def check_address(uri: str) -> None:
    """Check the address of a store before training starts: a server must answer. Raises TrackingError."""
    if uri.startswith(("http://", "https://")):
        shown = without_password(uri)
        bare = re.sub(r"(://)[^/@]*@", r"\1", uri)  # urllib takes user:password@host as the host name
        try:
            with urllib.request.urlopen(f"{bare.rstrip('/')}/health", timeout=HEALTH_SECONDS):
                return
        except urllib.error.HTTPError as error:
            if error.code not in (401, 403, 404):  # a server with a login may not show its health
                raise TrackingError(
                    f"the tracking server {shown} answers with {error.code} {error.reason}; "
                    "check its log, correct tracking.uri, or use tracking=local"
                ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise TrackingError(
                f"the tracking server must answer before a run starts, {shown} does not ({reason}); "
                "start it, correct tracking.uri, or use tracking=local"
            ) from error
    elif uri.startswith("sqlite:") and sqlite_path(uri) is None:
        raise TrackingError(f"a SQLite store must name a file, got {uri}; use sqlite:////path/to/mlflow.db")
    elif "://" not in uri or uri.startswith("file:"):
        raise TrackingError(
            f"MLflow no longer records in plain folders, got {uri}; use sqlite:////path/to/mlflow.db or a server"
        )
