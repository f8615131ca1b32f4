"""The best network of a sweep, registered in MLflow's model registry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quantexp.analysis.gate import Rules
from quantexp.analysis.selection import float_run, select
from quantexp.config import Local, ModelReference, Server, Tracking
from quantexp.results import Report
from quantexp.results.sweep import Entry, SweepResult
from quantexp.system.errors import ConfigError
from quantexp.system.terminal import show
from quantexp.tracking.store import Store

DEFAULT_DROP = 0.01


def register(
    sweep_name: str,
    name: str,
    alias: str,
    *,
    rule: str,
    bounds: Rules,
    batch_size: int | None,
    where: Sequence[str],
    uri: str | None,
    experiment: str,
) -> None:
    """Select the best network of a sweep, check that it can be read, register it, and say why it was selected.

    Raises:
        QuantexpError: ConfigError for wrong arguments, TrackingError if the sweep or the network cannot be read or the
            registry cannot be written, QuantexpError if no network keeps the bounds.
    """
    from quantexp.runner.sweep_results import read_sweep
    from quantexp.tracking.registry import register as write
    from quantexp.tracking.store import open_store, read_store

    tracking: Tracking = Local(experiment=experiment) if uri is None else Server(experiment=experiment, uri=uri)
    _check_names(name, alias)
    with read_store(uri, experiment) as store:
        sweep = _only(read_sweep(store, sweep_name), where)
        bounds = _bounds(sweep, bounds)
        chosen = select(sweep, rule, bounds, batch_size)
        report = chosen.entry.report
        assert report is not None
        tags = {
            **_tags(sweep, chosen.entry, report),
            **_content(store, chosen.entry),
            **_float(store, sweep, chosen.entry),
        }
    writable = open_store(tracking)
    run = writable.run(chosen.entry.run_id)
    reference = ModelReference(name, alias)
    version, new = write(writable, run, _model(), name, alias, _description(sweep, chosen.why, report), tags)
    lines = [
        f"{'registered' if new else 'registered before'}: {reference} is version {version.number} of {name}",
        f"  {chosen.entry.name}, run {chosen.entry.run_id}",
        f"  {chosen.why}",
        *(f"left out: {other}: {reason}" for other, reason in chosen.left_out),
    ]
    show("\n".join(lines))


def _model() -> str:
    from quantexp.runner.artifacts import MODEL

    return MODEL


def _check_names(name: str, alias: str) -> None:
    """Raise ConfigError unless models:/NAME@ALIAS can name it."""
    if not re.fullmatch(r"[^/@:'\"\\\s]+", name):
        raise ConfigError(f"--name must be without spaces, quotes and / @ :, got {name!r}")
    if not re.fullmatch(r"[\w-]+", alias) or alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise ConfigError(
            f"--alias must consist of letters, digits, _ and -, and not be latest or like v1, got {alias!r}; use best"
        )


def _only(sweep: SweepResult, where: Sequence[str]) -> SweepResult:
    """Return the sweep with the runs that have some settings. Raises ConfigError."""
    for text in where:
        setting, given, value = text.partition("=")
        if not given:
            raise ConfigError(f"--where must be SETTING=VALUE, got {text!r}")
        values = sorted({entry.settings[setting] for entry in sweep.entries if setting in entry.settings})
        if value not in values:
            there = f"it has {', '.join(values)}" if values else "no run has such a setting"
            raise ConfigError(f"--where {text} matches no run of the sweep {sweep.name}; {there}")
        kept = tuple(entry for entry in sweep.entries if entry.settings.get(setting) == value)
        sweep = replace(sweep, entries=kept)
    return sweep


def _bounds(sweep: SweepResult, bounds: Rules) -> Rules:
    """Return the bounds, with that on accuracy unless there are no labels. Raises ConfigError."""
    reports = [report for report in sweep.reports if report.comparison]
    if all(report.result.quality for report in reports):
        drop = DEFAULT_DROP if bounds.max_accuracy_drop is None else bounds.max_accuracy_drop
        return replace(bounds, max_accuracy_drop=drop)
    if bounds.max_accuracy_drop is not None or (bounds.min_agreement is None and bounds.min_sqnr_db is None):
        given = "" if bounds.max_accuracy_drop is None else ", which --within needs"
        raise ConfigError(
            f"runs of the sweep {sweep.name} had no labels{given}; say how close to float a network must be with "
            "--min-agreement SHARE or --min-sqnr-db DB"
        )
    return bounds


def _tags(sweep: SweepResult, entry: Entry, report: Report) -> dict[str, str]:
    return {
        "quantexp.run": entry.run_id,
        "sweep": sweep.name,
        "task": report.task,
        "model": report.model,
        "quant": report.quant,
        "precision": report.precision,
        "runtime": report.runtime,
        **({"flow": report.flow} if report.flow else {}),
    }


def _content(store: Store, entry: Entry) -> dict[str, str]:
    """Read the whole network with the digests of its files, and return the tag with that of its recipe."""
    from quantexp.runner.load import stored_files
    from quantexp.state.files import RECIPE, sha256
    from quantexp.storage.recipe import FILES, read
    from quantexp.tracking.registry import CONTENT

    with stored_files(store, entry.run_id, FILES) as folder:
        read(Path(folder))
        return {CONTENT: sha256(folder / RECIPE)}


def _float(store: Store, sweep: SweepResult, entry: Entry) -> dict[str, str]:
    """Return the tag with the run of the float network, if the sweep has one that stored it."""
    from quantexp.tracking.names import WITHOUT_MODEL
    from quantexp.tracking.registry import FLOAT_RUN

    found = float_run(sweep, entry)
    stored = found is not None and WITHOUT_MODEL not in store.run(found.run_id).tags
    return {FLOAT_RUN: found.run_id} if found and stored else {}


def _description(sweep: SweepResult, why: str, report: Report) -> str:
    """Return the description of the version, in Markdown."""
    from quantexp.reports.table import comparison_table

    return f"From the sweep {sweep.name}: {why}.\n\n{comparison_table(report).markdown()}"
