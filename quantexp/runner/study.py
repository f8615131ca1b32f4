"""Run a study: it yields experiments and receives their reports; each is recorded below the study's own run.

A study that was stopped is resumed: its run in the store is opened again, and finished variants are not repeated. When
a study yields its findings so far, they are recorded at once, so that a killed process does not lose them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from quantexp.config import Experiment, Single
from quantexp.reports.findings import Findings
from quantexp.runner.finished import read_report
from quantexp.runner.labels import parameters, yaml_text
from quantexp.runner.single import run_single
from quantexp.runner.tracked import Request, log_findings, tracked_run
from quantexp.runner.trials import run_trials
from quantexp.system import interrupt
from quantexp.system.errors import QuantizationError, TrackingError
from quantexp.system.implementation import resolve
from quantexp.system.terminal import show

if TYPE_CHECKING:
    from quantexp.results import Report
    from quantexp.tracking.run import TrackedRun
    from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

OPTIONS = ("quant", "runtime")  # the groups of which a variant may have another option

Variants: TypeAlias = "Generator[Experiment | Findings, Any, Findings]"
"""A running study: it yields an experiment to receive its report, or its findings so far to record them."""


def run_experiment(experiment: Experiment, request: Request) -> None:
    """Run and record an experiment: a single run, or a study. Raises QuantexpError."""
    if isinstance(experiment.study, Single):
        run_single(experiment, request)
    else:
        run_study(experiment, request)


def run_study(experiment: Experiment, request: Request) -> Findings:
    """Run the experiments of a study, show its table, record it.

    If a variant cannot be quantized, its error is thrown into the study.

    Raises:
        QuantexpError: Any error of a variant that the study does not handle.
    """
    find = resolve(experiment.study.implementation)
    variants: Variants = find(experiment.study, experiment, lambda variant: command(experiment, variant, request))
    if experiment.study.tries:
        return run_trials(experiment, request, variants)
    if experiment.study.needs_data:
        return _run_variants(experiment, request, variants)
    with tracked_run(experiment, request) as tracked:
        return _follow(variants, tracked, lambda variant: run_single(variant, request).report)


def _run_variants(experiment: Experiment, request: Request, variants: Variants) -> Findings:
    from quantexp.mission import load
    from quantexp.runner.identity import identity_of
    from quantexp.tracking.studies import find_study, study_tags

    fingerprint = load(experiment).fingerprint
    digest = identity_of(experiment, fingerprint).digest
    resume = getattr(experiment.study, "resume", True)

    def find(store: Store) -> str | None:
        return find_study(store, digest, request.parent) if resume else None

    with tracked_run(experiment, replace(request, tags={**request.tags, **study_tags(digest)}), find) as tracked:
        measured = dict(_measured_before(tracked))

        def report_of(variant: Experiment) -> Report:
            difference = _difference(experiment, variant, request)
            name = " ".join(difference.typed) or "as requested"
            if report := measured.get(identity_of(variant, fingerprint).digest):
                log.info("variant   %s: measured before", name)
                return report
            log.info("variant   %s", name)
            return run_single(variant, _request(request, variant, difference, tracked.run_id)).report

        return _follow(variants, tracked, report_of)


def _measured_before(tracked: TrackedRun) -> Iterator[tuple[str, Report]]:
    """Yield identity and report of the recorded variants of a study, those that can be read."""
    from quantexp.tracking.names import IDENTITY
    from quantexp.tracking.studies import finished_variants

    if (store := tracked.store) is None:
        return
    for run in finished_variants(store, tracked.run_id):
        try:
            yield run.tags[IDENTITY], read_report(store, run)
        except TrackingError as error:
            log.warning("%s is measured again, its report cannot be read (%s)", run.name, error)


def command(experiment: Experiment, variant: Experiment, request: Request) -> str:
    """Return the command that runs a variant of a study alone."""
    from quantexp.runner.sweep import command_line

    return command_line(_typed(request, _difference(experiment, variant, request)))


def _follow(variants: Variants, tracked: TrackedRun, report_of: Callable[[Experiment], Report]) -> Findings:
    """Record the findings so far at each step, and show the last ones, also if it is interrupted."""
    so_far: list[Findings] = []

    def keep(found: Findings) -> None:
        log_findings(tracked, found, step=len(so_far))
        so_far.append(found)

    try:
        with interrupt.guard():
            found = _answered(variants, report_of, keep)
    except KeyboardInterrupt:
        if so_far:
            show(so_far[-1].table.rich())
        raise
    show(found.table.rich())
    keep(found)
    return found


def _answered(
    variants: Variants, report_of: Callable[[Experiment], Report], keep: Callable[[Findings], None]
) -> Findings:
    """Send the study the report of each experiment that it yields, or throw the error; return its findings."""
    try:
        yielded = next(variants)
        while True:
            if isinstance(yielded, Findings):
                keep(yielded)
                yielded = next(variants)
                continue
            try:
                report = report_of(yielded)
            except QuantizationError as error:
                yielded = variants.throw(error)
            else:
                yielded = variants.send(report)
    except StopIteration as end:
        found: Findings = end.value
        return found


@dataclass(frozen=True)
class Difference:
    """How a variant differs from the study: settings by path, and its method and runtime, by group, if not the same."""

    changes: Mapping[str, Any]
    options: Mapping[str, str]

    @property
    def typed(self) -> list[str]:
        """The settings as they are typed: `quant.include=[layers.0,layers.2]`."""
        texts = {**self.options, **{name: _as_typed(value) for name, value in self.changes.items()}}
        return [f"{name}={text}" for name, text in texts.items()]

    def replaces(self, override: str) -> bool:
        """Return whether a setting of the study's command is not one of the variant."""
        name = override.lstrip("+~").partition("=")[0]
        others = name.partition(".")[0] in self.options or (name == "precision" and "quant" in self.options)
        elsewhere = name == "study" or name.startswith(("study.", "sweep."))  # a single run is neither
        return elsewhere or name in self.changes or others


def _as_typed(value: Any) -> str:
    """Return a value as it is typed: `[layers.0,layers.2]`, `null`."""
    if value is None:
        return "null"
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _difference(experiment: Experiment, variant: Experiment, request: Request) -> Difference:
    """Compare a variant with the study's experiment; another method or runtime is compared with its defaults."""
    base: dict[str, Any] = {"study": variant.study}
    options = {}
    for group in OPTIONS:
        chosen = getattr(variant, group)
        if type(chosen) is not type(getattr(experiment, group)):
            base[group], options[group] = type(chosen)(), chosen.name
    if "quant" in options:
        base["precision"] = type(variant.quant).precisions[0]
    # Without a check: the settings of the study need not go together with another runtime.
    before, after = (parameters(each, request.choices) for each in (experiment.filled(**base), variant))
    changes = {name: value for name, value in after.items() if before.get(name) != value}
    return Difference(changes, options)


def _typed(request: Request, difference: Difference) -> list[str]:
    return [*(text for text in request.overrides if not difference.replaces(text)), *difference.typed]


def _request(request: Request, variant: Experiment, difference: Difference, parent: str) -> Request:
    """Return the request of a variant as a single run, with its own settings in command and YAML."""
    from omegaconf import OmegaConf

    settings: dict[str, Any] = {"study": {}}
    choices = {**request.choices, "study": Single.name}
    for group, name in difference.options.items():
        choices[group] = name
        settings[group] = OmegaConf.to_container(OmegaConf.structured(getattr(variant, group)), enum_to_str=True)
    if "quant" in difference.options:
        settings["precision"] = variant.precision
    config: Any = OmegaConf.create(request.yaml)
    for name, value in {**settings, **difference.changes}.items():
        OmegaConf.update(config, name, value, merge=False)
    overrides = _typed(request, difference)
    return Request(choices, overrides, yaml_text(config, overrides), parent, quiet=True)
