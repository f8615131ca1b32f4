"""The settings that tell the runs of a sweep apart.

A setting varies if two runs that agree in every choice (task, quant, runtime ...) differ in it; that static has an
engine and the float network has none tells no rows apart. What affects no result never counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields

from quantexp.config import NOTHING, Experiment, affects

FOLDED = ("seed", "batch_size")  # runs that differ in these alone are one variant
SHOWN = ("task", "data", "quant", "precision", "benchmark", "benchmark.threads")  # in columns and setups of their own
SAME_AS = {"task.hidden": "model.hidden"}  # the network takes its widths from the task unless it has its own
LEFT_OPEN = "None"  # a setting that has no value, as it is recorded
Settings = tuple[tuple[str, str], ...]


def settings_text(settings: Settings) -> str:
    """Return settings in a line, without those that are left open: `hidden=[256, 256], crop=20`."""
    return ", ".join(f"{short(name)}={value}" for name, value in settings if value != LEFT_OPEN)


def short(name: str) -> str:
    """Return the name of a setting without its group."""
    return name.rpartition(".")[2]


def varying(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the settings that vary among runs with equal choices, behind the choices that vary and are not shown."""
    counted = [{name: value for name, value in run.items() if _counts(name)} for run in runs]
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
    """Tell whether another setting that varies says the same in every run that has it."""
    other = SAME_AS.get(name, "")
    return other in found and all(run.get(name) == run[other] for run in runs if other in run)
