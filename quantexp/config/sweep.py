"""How a sweep is named, resumed, and what it does with combinations that are not supported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from quantexp.config.objectives import find_objective, names
from quantexp.config.option import NOTHING, Settings, option


class Retry(StrEnum):
    """Which combinations of a resumed sweep are run."""

    unfinished = "unfinished"
    failed = "failed"


class Unsupported(StrEnum):
    """What a sweep does with combinations that are not supported."""

    refuse = "refuse"
    skip = "skip"


@dataclass
class SweepSettings(Settings):
    """A sweep (`-m`): one run for each combination."""

    group: ClassVar[str] = "sweep"

    name: str | None = option(
        "name; the same name again resumes the sweep; default: date and time", None, affects=NOTHING
    )
    resume: bool = option(
        "skip combinations that are finished on this machine and with these versions", True, affects=NOTHING
    )
    retry: Retry = option(
        "unfinished: run all that are not finished; failed: only those that failed", Retry.unfinished, affects=NOTHING
    )
    unsupported: Unsupported = option(
        "combinations that are not supported: refuse the sweep, or skip them and report the reason",
        Unsupported.refuse,
        affects=NOTHING,
    )
    objective: Any = option(
        "what a sweeper such as Optuna improves: accuracy, agreement, sqnr, size, speedup, latency, or a list of them; "
        "speedup_b64: at batch size 64",
        None,
        affects=NOTHING,
    )

    def __post_init__(self) -> None:
        if isinstance(self.objective, str):
            self.objective = [self.objective]
        super().__post_init__()

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.name is not None and not re.fullmatch(r"\w[\w .,+=-]{0,99}", self.name):
            yield (
                "sweep.name must be at most 100 letters, digits, blanks and signs of _ . , + = -, "
                f"the first a letter or digit, as it names a folder too; got {self.name!r}"
            )
        if self.retry is Retry.failed and not self.resume:
            yield "sweep.retry=failed goes on with a sweep, sweep.resume=false begins it anew; give one of the two"
        asked = self.objective if isinstance(self.objective, list) else [self.objective]
        if self.objective is not None and (wrong := [name for name in asked if find_objective(str(name)) is None]):
            yield f"sweep.objective must be one of {names()}, or a list of them, got {wrong[0]!r}"
        elif self.objective == []:
            yield f"sweep.objective must name something to improve ({names()}), got an empty list"
