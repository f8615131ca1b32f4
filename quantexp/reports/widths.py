"""Column widths of a table on a narrow terminal.

Cells are folded between words first, then the padding is dropped; words are split as a last resort. Rich alone shrinks
the widest columns, and so splits numbers and names while other cells could still be folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable


class Fitted:
    """A table that fits its widths to the console. `texts` holds its columns, the header first."""

    def __init__(self, table: RichTable, texts: Sequence[Sequence[str]]) -> None:
        self.table = table
        self.texts = texts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.cells import cell_len
        from rich.measure import Measurement

        longest = [max(cell_len(line) for text in column for line in text.split("\n")) for column in self.texts]
        words = [max((cell_len(word) for text in column for word in text.split()), default=1) for column in self.texts]

        def room() -> int:
            unbounded = options.update(width=sum(longest) + 10 * len(longest))
            return options.max_width - (Measurement.get(console, unbounded, self.table).maximum - sum(longest))

        if sum(words) > room():
            self.table.padding = 0
        for column, width in zip(self.table.columns, widths(words, longest, room()), strict=True):
            column.width = width
        yield self.table


def widths(words: Sequence[int], longest: Sequence[int], room: int) -> list[int] | list[None]:
    """Return a width for each column, in sum at most `room`; None leaves it to rich.

    `words` are the least widths that split no word, `longest` those that fold nothing.
    """
    least, most = (words, longest) if sum(words) <= room else ([1] * len(words), words)
    for cap in range(max(most, default=0), 0, -1):
        found = [max(low, min(high, cap)) for low, high in zip(least, most, strict=True)]
        if sum(found) <= room:
            return found
    return [None] * len(words)
