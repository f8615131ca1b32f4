"""What a multirun is called, whether it goes on where it stopped, and whether it may ask for what does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from quantexp.config.option import NOTHING, Settings, option


class Retry(StrEnum):
    """Which combinations of a sweep that was started before are run."""

    unfinished = "unfinished"
    failed = "failed"


class Unsupported(StrEnum):
    """What becomes of a sweep some of whose combinations do not exist."""

    refuse = "refuse"
    skip = "skip"


@dataclass
class SweepSettings(Settings):
    """A sweep: one run for each combination, asked for with -m."""

    group: ClassVar[str] = "sweep"

    name: str | None = option(
        "what it is called; the same name again resumes it; null: after its moment", None, affects=NOTHING
    )
    resume: bool = option(
        "whether combinations that are done, here and with the same versions, are skipped", True, affects=NOTHING
    )
    retry: Retry = option(
        "unfinished: whatever is not done; failed: only what failed", Retry.unfinished, affects=NOTHING
    )
    unsupported: Unsupported = option(
        "combinations that do not exist, as a flow that a method lacks: refuse the sweep, or skip them and report why",
        Unsupported.refuse,
        affects=NOTHING,
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.name is not None and not re.fullmatch(r"\w[\w .,+=-]{0,99}", self.name):
            yield (
                "sweep.name must be at most 100 letters, digits, blanks and signs of _ . , + = -, "
                f"the first a letter or digit, as it names a folder too; got {self.name!r}"
            )
        if self.retry is Retry.failed and not self.resume:
            yield "sweep.retry=failed goes on with a sweep, sweep.resume=false begins it anew; give one of the two"
