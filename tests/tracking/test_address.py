"""A tracking server is reached as MLflow's own client reaches it, and an error says what to do."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from quantexp.config.tracking import Server
from quantexp.system.errors import TrackingError
from quantexp.tracking.store import open_store

EXPERIMENTS = "/api/2.0/mlflow/experiments/get-by-name"
VARIABLES = ("USERNAME", "PASSWORD", "TOKEN", "SERVER_CERT_PATH", "INSECURE_TLS")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without settings of MLflow and without proxies, which this machine may have."""
    for name in VARIABLES:
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Api(http.server.BaseHTTPRequestHandler):
    """The part of MLflow's API that says which experiment has a name."""

    prefix = ""
    authorization: str | None = None
    seconds = 0.0
    answer: tuple[int, str] | None = None

    def do_GET(self) -> None:
        time.sleep(self.seconds)
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if self.authorization not in (None, self.headers.get("Authorization")):
            self._send(401, "You are not authenticated.")
        elif self.answer is not None:
            self._send(*self.answer)
        elif path == f"{self.prefix}{EXPERIMENTS}":
            found = {"experiment_id": "7", "name": query["experiment_name"][0], "lifecycle_stage": "active"}
            self._send(200, json.dumps({"experiment": found}))
        else:
            self._send(404, "<html>no such page</html>")

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(certificate: Path | None = None, **settings: Any) -> Iterator[str]:
    """Run the API on the loopback address, with a certificate over TLS."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Configured", (Api,), settings))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that signs itself, with its key, in a file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    signed = builder.add_extension(address, critical=True).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


def opened(uri: str) -> str:
    return open_store(Server(uri=uri)).experiment_id


# -- what MLflow reaches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/mlflow", "/team/a/mlflow"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_server_below_a_path_is_reached(prefix: str, end: str) -> None:
    with serving(prefix=prefix) as uri:
        assert opened(f"{uri}{prefix}{end}") == "7"


def test_a_token_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    with serving(authorization="Bearer abc") as uri:
        assert opened(uri) == "7"


def test_user_and_password_of_the_environment_or_of_the_address_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    basic = f"Basic {base64.b64encode(b'user:secret').decode()}"
    with serving(authorization=basic) as uri:
        assert opened(uri.replace("://", "://user:secret@")) == "7"
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
        assert opened(uri) == "7"


def test_a_certificate_that_the_user_trusts_is_accepted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(certificate) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        assert opened(uri) == "7"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_certificate_need_not_be_verified_if_the_user_says_so(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(certificate) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        assert opened(uri) == "7"


def test_a_proxy_is_not_asked_for_a_server_that_no_proxy_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as uri:
        assert opened(uri) == "7"


@pytest.mark.slow
def test_a_server_that_answers_after_five_seconds_is_waited_for() -> None:
    with serving(seconds=5) as uri:
        assert opened(uri) == "7"


def test_the_user_s_own_patience_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with serving(seconds=1.5) as uri, pytest.raises(TrackingError, match=r"does not answer.*timed out"):
        opened(uri)


# -- what it does not reach ------------------------------------------------------------------------------


def refusal(uri: str) -> str:
    with pytest.raises(TrackingError) as error:
        opened(uri)
    said = str(error.value)
    assert "Traceback" not in said and "<html>" not in said and "secret" not in said
    assert len(said) < 600
    return said


def test_an_unknown_certificate_is_said_with_the_setting_for_it(certificate: Path) -> None:
    with serving(certificate) as uri:
        said = refusal(uri)
    assert "certificate of the tracking server" in said and "MLFLOW_TRACKING_SERVER_CERT_PATH" in said


def test_a_proxy_that_does_not_answer_is_said_with_the_setting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving() as uri:
        said = refusal(uri)
    assert "the proxy before the tracking server" in said and "NO_PROXY" in said


def test_a_wrong_password_is_said_with_the_setting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "wrong")
    with serving(authorization="Bearer abc") as uri:
        said = refusal(uri.replace("://", "://user:secret@"))
    assert "wants another user or token" in said and "MLFLOW_TRACKING_USERNAME" in said


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((403, "Permission denied"), "does not let this user record"),
        ((403, "Invalid Host header - possible DNS rebinding attack detected"), "--allowed-hosts"),
        ((404, "<html>not here</html>"), "does not answer like an MLflow server"),
        ((200, "<html>welcome</html>"), "does not answer like an MLflow server"),
        ((503, "starting"), "503"),
        ((500, '{"error_code": "INTERNAL_ERROR", "message": "no database"}'), "500"),
    ],
    ids=["forbidden", "host", "another page", "a page", "unavailable", "broken"],
)
def test_an_answer_that_is_not_of_the_api_is_said_in_words(answer: tuple[int, str], told: str) -> None:
    with serving(answer=answer) as uri:
        assert told in refusal(uri)
