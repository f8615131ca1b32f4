"""The address of a store: what it names, and whether a server answers."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path

from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password

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
