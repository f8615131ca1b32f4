"""A study of several runs: it yields experiments and receives their reports; each is recorded below the study's run.

A study that was stopped goes on: its run in the store is opened again, and what finished below it is not repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from quantexp.config import Experiment, Single
from quantexp.errors import QuantizationError
from quantexp.perform import Request, perform, recorded
from quantexp.screen import show
from quantexp.tracking.labels import parameters, yaml_text

if TYPE_CHECKING:
    from quantexp.report.findings import Findings
    from quantexp.report.results import Report
    from quantexp.tracking.store import Store

log = logging.getLogger(__name__)

Variants: TypeAlias = "Generator[Experiment, Report, Findings]"


def conduct(experiment: Experiment, request: Request, variants: Variants, resume: bool) -> Findings:
    """Run what the study yields, show its table, record it.

    A variant that cannot be quantized is thrown back into the study as the error that it ended in.

    Raises:
        QuantexpError: Whatever a variant raises that the study does not take.
    """
    from quantexp.identity import Identity
    from quantexp.tracking import studies

    fingerprint = experiment.load().fingerprint
    digest = Identity.of(experiment, fingerprint).digest

    def find(store: Store) -> str | None:
        return studies.find(store, digest, request.parent) if resume else None

    with recorded(experiment, replace(request, tags={**request.tags, **studies.tags(digest)}), find) as recorder:
        done = studies.reports(recorder.store, recorder.run_id)

        def report_of(variant: Experiment) -> Report:
            changes = _changes(experiment, variant, request)
            name = " ".join(_overrides(changes)) or "as the study was asked for"
            if report := done.get(Identity.of(variant, fingerprint).digest):
                log.info("variant   %s: measured before", name)
                return report
            log.info("variant   %s", name)
            return perform(variant, _request(request, changes, recorder.run_id)).report

        found = _answered(variants, report_of)
        show(found.table.rich())
        recorder.record_findings(found)
    return found


def _answered(variants: Variants, report_of: Callable[[Experiment], Report]) -> Findings:
    """Give the study the report of each experiment that it yields, or throw the error; return what it found."""
    try:
        variant = next(variants)
        while True:
            try:
                report = report_of(variant)
            except QuantizationError as error:
                variant = variants.throw(error)
            else:
                variant = variants.send(report)
    except StopIteration as end:
        found: Findings = end.value
        return found


def _changes(experiment: Experiment, variant: Experiment, request: Request) -> dict[str, Any]:
    """Return the settings of a variant that are not those of the study, by their path."""
    before = parameters(replace(experiment, study=variant.study), request.choices)
    after = parameters(variant, request.choices)
    return {name: value for name, value in after.items() if before.get(name) != value}


def _overrides(changes: Mapping[str, Any]) -> list[str]:
    """Return settings as they are typed: `quant.include=[layers.0,layers.2]`."""
    texts = {
        name: f"[{','.join(map(str, value))}]" if isinstance(value, list) else value for name, value in changes.items()
    }
    return [f"{name}={text}" for name, text in texts.items()]


def _request(request: Request, changes: Mapping[str, Any], parent: str) -> Request:
    """Return how a variant is asked for: as a single run, with its own settings in command and YAML."""
    from omegaconf import OmegaConf

    typed = (
        text for text in request.overrides if not text.startswith("study") and text.partition("=")[0] not in changes
    )
    overrides = [*typed, *_overrides(changes)]
    config: Any = OmegaConf.create(request.yaml)
    for name, value in {**changes, "study": {}}.items():
        OmegaConf.update(config, name, value, merge=False)
    choices = {**request.choices, "study": Single.name}
    return Request(choices, overrides, yaml_text(config, overrides), parent, quiet=True)
