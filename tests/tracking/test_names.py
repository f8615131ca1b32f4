"""Texts as MLflow keeps them."""

from __future__ import annotations

from quantexp.tracking.names import NOTE_LENGTH, REST, as_note


def test_a_description_that_is_too_long_ends_with_a_whole_line_and_says_where_the_rest_is() -> None:
    lines = [f"| row {number:04d} |" for number in range(1000)]
    kept = as_note("\n".join(lines))
    assert len(kept) <= NOTE_LENGTH
    assert kept.endswith(REST)
    shown = kept.removesuffix(REST).split("\n")
    assert shown == lines[: len(shown)]
    assert len(kept) + len(lines[0]) + 1 > NOTE_LENGTH, "not one more line would fit"


def test_a_description_of_the_greatest_length_stays_whole() -> None:
    text = "x" * NOTE_LENGTH
    assert as_note(text) == text
