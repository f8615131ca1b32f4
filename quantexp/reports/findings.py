"""The findings of a study, as they are shown and recorded: metrics, a table, CSV files, pictures and other files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quantexp.reports.table import Table


@dataclass(frozen=True)
class Findings:
    """The result of a study.

    `metrics` has figures by their public names, `lines` the lines of CSV files by name (the header first), `pictures`
    PNG by file name, `texts` the content of further files by name.
    """

    metrics: Mapping[str, float]
    table: Table
    lines: Mapping[str, Sequence[Sequence[object]]]
    pictures: Mapping[str, bytes]
    texts: Mapping[str, str] = field(default_factory=dict)
