"""A study in the store: a run of its own, and a child for each variant that it measured."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from quantexp.results import Report, parse_report
from quantexp.tracking.artifacts import read_artifact
from quantexp.tracking.names import IDENTITY, KIND, PARENT, REPORT_FILE, STUDY
from quantexp.tracking.store import Store

log = logging.getLogger(__name__)


def tags(digest: str) -> dict[str, str]:
    """Return what the run of a study is found again by: the digest of all that the study depends on."""
    return {KIND: "study", STUDY: digest}


def find(store: Store, digest: str, sweep: str | None) -> str | None:
    """Return the latest run of a study that has ended and can go on, in the same sweep or in none."""
    for run in store.search(f"tags.`{KIND}` = 'study' and tags.`{STUDY}` = '{digest}'"):
        if run.info.status != "RUNNING" and run.data.tags.get(PARENT) == sweep:
            return str(run.info.run_id)
    return None


def reports(store: Store, run_id: str) -> dict[str, Report]:
    """Return the reports of the variants of a study that finished, by their identity."""
    return dict(_reports(store, run_id))


def _reports(store: Store, run_id: str) -> Iterator[tuple[str, Report]]:
    for run in store.search(f"tags.`{PARENT}` = '{run_id}' and attributes.status = 'FINISHED'"):
        try:
            yield run.data.tags[IDENTITY], parse_report(read_artifact(store.client, run.info.run_id, REPORT_FILE))
        except Exception as error:  # a store may lack what it should hold; it can be measured again
            reason = " ".join(str(error).split())[:200]
            log.warning("%s is measured again, its report cannot be read (%s)", run.info.run_name, reason)
