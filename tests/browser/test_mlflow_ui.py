"""MLflow's UI as a person sees it: a sweep's runs with their columns, a chart, the files of a run.

Not part of the default run: `scripts/test -m browser`. It needs Chromium and the extra `browser`; where
QUANTEXP_SCREENSHOTS names a folder, the pictures of what was seen are kept there.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

PATIENCE = 120  # seconds
AXES = ("task=mnist,sst2", "quant=none,dynamic,static", "data=sample", "benchmark=quick")
FLAGS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder in which a sweep was recorded; QUANTEXP_SWEPT names one that is there."""
    if given := os.environ.get("QUANTEXP_SWEPT"):
        return Path(given)
    folder = tmp_path_factory.mktemp("swept")
    command = [sys.executable, "-m", "quantexp", "-m", *AXES, "sweep.name=shown", f"cache_dir={cache}"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=PATIENCE * 3)
    return folder


@pytest.fixture(scope="module")
def address(swept: Path) -> Iterator[str]:
    """The address of MLflow's UI over the sweep's store, on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (swept / "ui.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=swept, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (swept / "ui.log").read_text()
                assert time.monotonic() < until, (swept / "ui.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(PATIENCE)


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    """A page of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "install Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, "--no-sandbox"])
        shown = browser.new_page(viewport={"width": 2400, "height": 1100})
        shown.set_default_timeout(PATIENCE * 1000)
        yield shown
        browser.close()


@pytest.fixture(scope="module")
def client(swept: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{swept / 'mlflow.db'}")


@pytest.fixture(scope="module")
def experiment(client: Any) -> str:
    return str(client.get_experiment_by_name("quantexp").experiment_id)


def keep(page: Any, name: str) -> None:
    page.wait_for_timeout(2500)  # what is drawn moves into place
    if (assistant := page.locator("button[aria-label='Close']")).count():
        assistant.first.click()
        page.wait_for_timeout(1000)
    if folder := os.environ.get("QUANTEXP_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / name))


def runs(client: Any, experiment: str) -> list[Any]:
    return list(client.search_runs([experiment], "params.quant != ''"))


def side_by_side(address: str, experiment: str) -> str:
    return f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=quantexp"


def test_the_runs_of_a_sweep_are_listed_with_the_columns_of_the_view(
    page: Any, address: str, client: Any, experiment: str
) -> None:
    page.goto(side_by_side(address, experiment))
    names = [run.info.run_name for run in runs(client, experiment)]
    for name in names:
        page.get_by_text(name, exact=True).first.wait_for()
    keep(page, "runs.png")
    shown = page.inner_text("body")
    for column in ("accuracy", "accuracy_drop", "size_mb", "latency_b1_ms", "speedup_b1"):
        assert column in shown
    accuracies = [f"{run.data.metrics['accuracy']:g}" for run in runs(client, experiment)]
    assert [value for value in accuracies if value not in shown] == []


def test_a_chart_of_accuracy_against_latency_opens(page: Any, address: str, experiment: str) -> None:
    page.goto(f"{side_by_side(address, experiment)}&compareRunsMode=CHART")
    page.get_by_text("Float against quantized").first.wait_for()
    page.locator(".js-plotly-plot .scatterlayer .points path").first.wait_for()
    keep(page, "charts.png")
    titles = page.locator(".js-plotly-plot .xtitle, .js-plotly-plot .ytitle").all_text_contents()
    assert {"latency_b1_ms", "accuracy"} <= set(titles)


def test_the_files_of_a_run_and_of_its_sweep_are_shown(page: Any, address: str, client: Any, experiment: str) -> None:
    run = runs(client, experiment)[0]
    page.goto(f"{address}/#/experiments/{experiment}/runs/{run.info.run_id}/artifacts")
    for name in ("report.json", "samples.csv", "config.yaml", "model"):
        page.get_by_text(name, exact=True).first.wait_for()
    (parent, *_) = client.search_runs([experiment], "tags.`quantexp.kind` = 'sweep'")
    page.goto(f"{address}/#/experiments/{experiment}/runs/{parent.info.run_id}")
    page.get_by_text("Quantization").first.wait_for()  # the table is the description of the sweep
    keep(page, "sweep.png")
    page.goto(f"{address}/#/experiments/{experiment}/runs/{parent.info.run_id}/artifacts")
    page.get_by_text("report", exact=True).first.click()
    page.get_by_text("report.html", exact=True).first.wait_for()
    assert page.get_by_text("table.csv", exact=True).first.is_visible()
    keep(page, "artifacts.png")
