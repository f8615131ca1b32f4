"""A study in the store: a run of its own, and a child for each variant that it measured."""

from __future__ import annotations

from collections.abc import Iterator

from quantexp.tracking.names import KIND, PARENT, STUDY
from quantexp.tracking.store import RunFacts, Store


def study_tags(digest: str) -> dict[str, str]:
    """Return the tags by which the run of a study is found; `digest` covers everything that it depends on."""
    return {KIND: "study", STUDY: digest}


def find_study(store: Store, digest: str, sweep: str | None) -> str | None:
    """Return the id of the latest ended run of a study, in the same sweep or in none; None if there is none."""
    for run in store.search(f"tags.`{KIND}` = 'study' and tags.`{STUDY}` = '{digest}'"):
        if run.status != "RUNNING" and run.tags.get(PARENT) == sweep:
            return run.run_id
    return None


def finished_variants(store: Store, run_id: str) -> Iterator[RunFacts]:
    """Yield the finished variants of a study, the latest first."""
    found = store.search(f"tags.`{PARENT}` = '{run_id}' and attributes.status = 'FINISHED'")
    return (run for run in found if run.finished)
