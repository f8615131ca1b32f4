"""Figures as text, the same in every table, sentence and picture."""

from __future__ import annotations


def size_text(size_mb: float) -> str:
    """Return a size in MB with two digits behind the point, with three below 1 MB."""
    return f"{size_mb:.2f}" if size_mb >= 1 else f"{size_mb:.3f}"


def p_text(value: float) -> str:
    """Return a p-value as it is reported."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def threads_text(count: int) -> str:
    """Return `1 thread` or `4 threads`."""
    return f"{count} thread{'s' * (count != 1)}"
