"""A saved view for MLflow's UI: columns and charts of size, speed and accuracy.

MLflow stores saved views as experiment tags in an internal format (since 3.15), so an error here never fails a run.
"""

from __future__ import annotations

import base64
import json
import logging
import time
import zlib
from typing import Any

from quantexp.system.passwords import without_password
from quantexp.tracking.address import resolve_uri
from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

KEY = "quantexp"
MODE = "workflowType=machine_learning"  # otherwise the UI opens in its mode for language models
COLUMNS = (
    *(f"params.`{name}`" for name in ("task", "model", "quant", "precision", "benchmark", "data", "seed")),
    *(
        f"metrics.`{name}`"
        for name in (
            "accuracy",
            "accuracy_drop",
            "size_mb",
            "compression",
            "flops",
            "latency_b1_ms",
            "latency_b64_ms",
            "speedup_b1",
            "speedup_b64",
            "train_seconds",
            "int8_mac_share",
            "mcnemar_p",
            "unstable",
        )
    ),
)


def directions(store: Store, name: str, run_id: str) -> list[str]:
    """Return lines that say where a run is recorded, and how to open it and all runs side by side."""
    shown = without_password(store.uri)
    local = store.uri.startswith("sqlite:")
    address = "http://127.0.0.1:5000/" if local else f"{shown.rstrip('/')}/"
    start = f"  mlflow ui --backend-store-uri {shown}, then open" if local else "  open"
    if store.uri == resolve_uri("sqlite:///mlflow.db"):
        start = "  type mlflow ui here, then open"
    experiment = f"{address}#/experiments/{store.experiment_id}/runs"
    return [
        f"recorded: {name} in {shown}, run {run_id}",
        f"{start} {experiment}/{run_id}?{MODE}",
        f"  all runs side by side: {experiment}?{MODE}&viewStateShareKey={KEY}",
    ]


def save_view(store: Store) -> None:
    """Save the view, unless the experiment has it."""
    tag = f"mlflow.sharedViewState.{KEY}"
    try:
        experiment = store.client.get_experiment(store.experiment_id)
        if tag in experiment.tags:
            return
        packed = base64.b64encode(zlib.compress(json.dumps(_state()).encode())).decode()
        now = int(time.time() * 1000)
        view = {"name": "quantexp", "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
        store.client.set_experiment_tag(store.experiment_id, tag, json.dumps(view))
    except Exception as error:  # an internal format of MLflow
        log.debug("no saved view: %s", error)


def _state() -> dict[str, Any]:
    section = {
        "uuid": "quantexp-section",
        "name": "Float against quantized",
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
    }
    charts = [
        _chart("SCATTER", "accuracy-latency", xaxis=_axis("latency_b1_ms"), yaxis=_axis("accuracy")),
        _chart("SCATTER", "accuracy-size", xaxis=_axis("size_mb"), yaxis=_axis("accuracy")),
        *(_chart("BAR", name, metricKey=name) for name in ("accuracy", "size_mb", "latency_b1_ms", "latency_b64_ms")),
    ]
    return {
        "searchFilter": "params.quant != ''",
        "orderByKey": "metrics.`accuracy`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "compareRunSections": [section],
        "compareRunCharts": charts,
    }


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def _chart(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    return {
        "uuid": f"quantexp-{name}-{kind.lower()}",
        "type": kind,
        "metricSectionId": "quantexp-section",
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 20,
        **settings,
    }
