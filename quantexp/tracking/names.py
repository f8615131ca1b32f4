"""The tags by which quantexp finds its runs, and parameters as they are recorded."""

from __future__ import annotations

import json

PROCESS = "quantexp.process"  # the process of a run, see processes.py
CONFIGURATION = "quantexp.configuration"  # digest of the configuration
IDENTITY = "quantexp.identity"  # digest of everything that the result depends on; only finished runs have it
RESULT = "quantexp.result"  # the id of the run's result, by which a result that is delivered later is found
KIND = "quantexp.kind"  # "sweep" for the parent run of one, "study" for that of a study with runs of its own
SWEEP = "quantexp.sweep"  # the name of a sweep, on its parent run
STUDY = "quantexp.study"  # digest of everything that a study depends on, on its own run
OBJECTIVES = "quantexp.objectives"  # names of the metrics that a sweep improves
COMMAND = "quantexp.command"  # the command of a sweep
FOLDER = "quantexp.folder"  # the directory of a sweep
REPRODUCES = "quantexp.reproduces"  # the run that this one repeats
WITHOUT_MODEL = "quantexp.without_model"  # that the network of the run was not stored, and why
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # the description of a run, Markdown
ERROR = "error"  # why a run failed
INTERRUPTED = "interrupted"  # the error of a run that the user ended

NOT_STORED = "the network was not stored (tracking.store_model=false)"

PARAM_LENGTH = 6000  # MLflow truncates longer values
NOTE_LENGTH = 8000  # likewise
REST = "\n\n(The rest is in the files of this run.)"


def as_note(text: str) -> str:
    """Return the description of a run as it is recorded: as many of its lines as MLflow keeps."""
    if len(text) <= NOTE_LENGTH:
        return text
    return text[: NOTE_LENGTH - len(REST)].rpartition("\n")[0] + REST


def as_text(value: object) -> str:
    """Return a parameter as it is recorded."""
    return (json.dumps(value) if isinstance(value, list | dict) else str(value))[:PARAM_LENGTH]
