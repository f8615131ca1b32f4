"""What a study found out, as it is shown and recorded: figures, a table, longer tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantexp.reports.table import Table


@dataclass(frozen=True)
class Findings:
    """The result of a study.

    `metrics` are figures under their public names; `lines` are those of CSV files by name, a header first;
    `pictures` are PNG by file name.
    """

    metrics: Mapping[str, float]
    table: Table
    lines: Mapping[str, Sequence[Sequence[object]]]
    pictures: Mapping[str, bytes]
