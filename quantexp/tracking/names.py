"""Tags and artifacts by which quantexp finds its runs again."""

from __future__ import annotations

import json

PROCESS = "quantexp.process"  # whose run it is, see processes.py
CONFIGURATION = "quantexp.configuration"  # digest of the configuration
IDENTITY = "quantexp.identity"  # digest of all that the result depends on; only finished runs have it
KIND = "quantexp.kind"  # "sweep" for the parent run of one, "study" for that of a study with runs of its own
SWEEP = "quantexp.sweep"  # the name of a sweep, on its parent run
STUDY = "quantexp.study"  # digest of all that a study depends on, on its own run
COMMAND = "quantexp.command"  # what made it
REPRODUCES = "quantexp.reproduces"  # the run that this one repeats
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"

CONFIG_FILE, IDENTITY_FILE, REPORT_FILE = "config.yaml", "identity.json", "report.json"
UNSUPPORTED_FILE = "unsupported.json"  # of a sweep's parent run: the combinations that do not exist

PARAM_LENGTH = 6000  # MLflow cuts longer values without a word


def as_text(value: object) -> str:
    """Return a parameter as it is recorded."""
    return (json.dumps(value) if isinstance(value, list | dict) else str(value))[:PARAM_LENGTH]
