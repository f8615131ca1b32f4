"""An experiment as plain values, for another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from quantexp.config import GROUPS, NOTHING, OPTIONS, RESULT, WEIGHTS, Experiment, Option, plain


def described(experiment: Experiment, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of an experiment as plain values, each option with its name, except those of `without`."""
    chosen = {group: getattr(experiment, group) for group in GROUPS if group not in without}
    options = {group: {"name": option.name, **plain(asdict(option))} for group, option in chosen.items()}
    return {**options, **experiment.settings(WEIGHTS, RESULT, NOTHING)}


def restored(values: dict[str, Any]) -> Experiment:
    """Return the experiment that `described` describes."""
    classes: dict[tuple[str, str], type[Option]] = {(option.group, option.name): option for option in OPTIONS}
    parts = dict(values)
    for group in GROUPS:
        if group in parts:
            settings = dict(parts[group])
            parts[group] = classes[group, settings.pop("name")](**settings)
    return Experiment(**parts)
