"""The address of a store: what it names, and what is wrong if a server does not answer.

A server is asked by MLflow's own client only, so that all of its settings count: certificates, proxies, tokens, a path
before the API. The first request has little patience, and its error says what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantexp.system.errors import TrackingError
from quantexp.system.passwords import without_password

DATABASE = "mlflow.db"  # of a store in a folder
RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
FIRST_SECONDS = "15"  # for the answer to the first request, unless MLflow's setting says otherwise
SERVER = ("http://", "https://")


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


def bare(uri: str | None) -> str:
    """Return the address of a store without user and password."""
    return re.sub(r"(://)[^/@]*@", r"\1", resolve_uri(uri or "")).rstrip("/")


def check_address(uri: str) -> None:
    """Check that an address can be one of a store, without asking for it. Raises TrackingError."""
    if uri.startswith("sqlite:") and sqlite_path(uri) is None:
        raise TrackingError(f"a SQLite store must name a file, got {uri}; use sqlite:////path/to/mlflow.db")
    if "://" not in uri or uri.startswith("file:"):
        raise TrackingError(
            f"MLflow no longer records in plain folders, got {uri}; use sqlite:////path/to/mlflow.db or a server"
        )


@contextmanager
def patience() -> Iterator[None]:
    """Let MLflow's client repeat a request once, at once, and wait for seconds, not minutes."""
    with _environment({RETRIES: "1", TIMEOUT: os.environ.get(TIMEOUT, FIRST_SECONDS)}):
        yield


@contextmanager
def impatient() -> Iterator[None]:
    """Let MLflow's client send a request once only."""
    with _environment({RETRIES: "0"}):
        yield


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def server_fault(uri: str, error: BaseException) -> str | None:
    """Return what keeps MLflow's client from working with a server, and the repair; None for any other error."""
    if not uri.startswith(SERVER):
        return None
    import requests.exceptions as http

    shown = without_password(uri)
    causes = list(_causes(error))
    reason = _reason(error)
    if _any(causes, http.SSLError):
        return (
            f"the certificate of the tracking server {shown} cannot be verified ({reason}); set "
            "MLFLOW_TRACKING_SERVER_CERT_PATH to the file of its certificate or of its authority"
        )
    if _any(causes, http.ProxyError):
        return (
            f"the proxy before the tracking server {shown} does not answer ({reason}); correct HTTP_PROXY and "
            "HTTPS_PROXY, or name the server in NO_PROXY"
        )
    if _any(causes, http.InvalidURL, http.InvalidSchema, http.MissingSchema, UnicodeError):
        return f"{shown} is not an address of a server ({reason}); correct tracking.uri, such as http://host:5000"
    if _any(causes, http.RequestException):
        return (
            f"the tracking server {shown} does not answer ({reason}); start it, correct tracking.uri, or use "
            "tracking=local"
        )
    return _answer_fault(shown, error, reason)


def _answer_fault(shown: str, error: BaseException, reason: str) -> str | None:
    """Return what an answer of a server means that is not one of MLflow's API."""
    status = re.search(r"failed with error code (\d{3}) ", str(error))
    code = getattr(error, "error_code", "")
    if "Invalid Host header" in str(error):
        return f"the tracking server {shown} does not accept this name ({reason}); start it with --allowed-hosts HOST"
    if code == "UNAUTHENTICATED" or (status and status[1] == "401"):
        return (
            f"the tracking server {shown} wants another user or token ({reason}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if code == "PERMISSION_DENIED" or (status and status[1] == "403"):
        return (
            f"the tracking server {shown} does not let this user record ({reason}); ask its administrator for the "
            "permission EDIT, or choose tracking.experiment=OTHER"
        )
    if "not in a valid JSON format" in str(error) or (status and status[1] in ("404", "405")):
        return (
            f"{shown} does not answer like an MLflow server ({reason}); correct tracking.uri, with the path that is "
            "before the API, or use tracking=local"
        )
    if status:
        return (
            f"the tracking server {shown} answers with {status[1]} ({reason}); check its log, correct tracking.uri, "
            "or use tracking=local"
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _any(errors: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(error, kinds) for error in errors)


def _reason(error: BaseException) -> str:
    """Return the innermost part of an error's text: requests and urllib3 wrap theirs in several others."""
    text = " ".join(str(error).split())
    text = text.rpartition("Caused by ")[2] if "Caused by " in text else text
    text = re.sub(r"<[^<>]*>", " ", text.removesuffix(")"))  # pages of HTML
    return str(without_password(" ".join(text.split())))[:200]
