"""The settings that vary in a sweep.

A setting varies if it differs between two runs with the same choices (task, quant, runtime ...). So the engine of
static does not vary just because the float network has none. Settings that affect no result are ignored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields

from quantexp.config import NOTHING, Experiment, affects

FOLDED = ("seed", "batch_size")  # runs that differ in these alone are one variant
# Have columns or setups of their own, or stand behind the name of the task.
SHOWN = ("task", "data", "train.examples", "quant", "precision", "benchmark", "benchmark.threads")
SAME_AS = {"task.hidden": "model.hidden"}  # the network takes its widths from the task unless it has its own
LEFT_OPEN = "None"  # how a setting without a value is recorded
Settings = tuple[tuple[str, str], ...]


def settings_text(settings: Settings) -> str:
    """Return settings in a line, without those that have no value: `hidden=[256, 256], crop=20`."""
    return ", ".join(f"{short(name)}={value}" for name, value in settings if value != LEFT_OPEN)


def short(name: str) -> str:
    """Return the name of a setting without its group."""
    return name.rpartition(".")[2]


def varying(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the choices that vary and have no column, then the settings that vary between runs with equal choices."""
    counting = {name for name in {name for run in runs for name in run} if _counts(name)}  # each name once
    counted = [{name: value for name, value in run.items() if name in counting} for run in runs]
    choices = [field.name for field in fields(Experiment) if field.name not in SHOWN and _counts(field.name)]
    several = [name for name in choices if len({run[name] for run in counted if name in run}) > 1]
    seen: dict[frozenset[tuple[str, str]], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in counted:
        alike = seen[frozenset(pair for pair in run.items() if "." not in pair[0])]
        for name, value in run.items():
            alike[name].add(value)
    names = dict.fromkeys(name for values in seen.values() for name in values if "." in name and name not in SHOWN)
    found = [name for name in names if any(len(values[name]) > 1 for values in seen.values())]
    return [*several, *(name for name in found if not _repeated(name, found, runs))]


def _counts(name: str) -> bool:
    return affects(name) is not NOTHING and name not in FOLDED


def _repeated(name: str, found: Sequence[str], runs: Sequence[Mapping[str, str]]) -> bool:
    """Return whether another varying setting has the same value in every run that has it."""
    other = SAME_AS.get(name, "")
    return other in found and all(run.get(name) == run[other] for run in runs if other in run)
