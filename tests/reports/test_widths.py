"""What a table becomes on a terminal that is narrower than it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from quantexp.reports.table import Table
from quantexp.reports.widths import widths

WIDE = Table(
    ("Task", "Settings", "Size (MB)", "Params", "Accuracy (%)"),
    (("mnist (sample)", "flow=torchao, engine=onednn", "1.52", "1,470,474", "92.78 [89.63, 95.02]"),),
    ("a note",),
)
WORDS = sorted(word for text in (*WIDE.columns, *WIDE.rows[0]) for word in text.split())


def shown(width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(WIDE.rich())
    return console.export_text().splitlines()


def printed(lines: list[str]) -> list[str]:
    return sorted(word for line in lines for word in line.replace("─", "").split() if word not in ("a", "note"))


def test_where_there_is_room_nothing_is_folded() -> None:
    assert any("flow=torchao, engine=onednn" in line and "92.78 [89.63, 95.02]" in line for line in shown(120))


@pytest.mark.parametrize("width", [54, 64, 80, 100])
def test_no_word_is_split_as_long_as_those_of_all_columns_fit(width: int) -> None:
    lines = shown(width)
    assert printed(lines) == WORDS
    assert all(len(line) <= width for line in lines)


def test_on_less_than_that_the_longest_words_are_split_and_all_is_shown() -> None:
    lines = shown(46)
    assert all(len(line) <= 46 for line in lines)
    assert "".join(sorted("".join(printed(lines)))) == "".join(sorted("".join(WORDS)))


def test_the_widest_columns_give_way_first_but_none_below_its_longest_word() -> None:
    assert widths(words=[4, 13], longest=[4, 27], room=20) == [4, 16]
    assert widths(words=[4, 13], longest=[20, 27], room=30) == [15, 15]
    assert widths(words=[12, 13], longest=[20, 27], room=25) == [12, 13]
    assert widths(words=[12, 13], longest=[20, 27], room=20) == [10, 10]
    assert widths(words=[12, 13], longest=[20, 27], room=1) == [None, None]
