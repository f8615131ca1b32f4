"""Figures as text, formatted the same in every table, sentence and plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from quantexp.results.comparison import QualityChange
from quantexp.results.evidence import Evidence, LeftInFloat


def size_text(size_mb: float) -> str:
    """Return a size in MB with two decimals, three below 1 MB."""
    return f"{size_mb:.2f}" if size_mb >= 1 else f"{size_mb:.3f}"


def megaflops_text(flops: int | None) -> str:
    """Return floating-point operations in millions, `2.94`, `3,643`, `0.0008`, or `unknown`."""
    if flops is None:
        return "unknown"
    millions = flops / 1e6
    return f"{millions:,.{_digits(millions)}f}"


def significant_text(value: float, *ends: float) -> str:
    """Return a positive number with three significant digits, and the ends of its interval with as many decimals."""
    digits = _digits(value)
    interval = ", ".join(f"{end:,.{digits}f}" for end in ends)
    return f"{value:,.{digits}f}{f' [{interval}]' if ends else ''}"


def _digits(value: float) -> int:
    """Return the decimals that give three significant digits."""
    return max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0


def p_text(value: float) -> str:
    """Return a p-value: `p = 0.012` or `p < 0.001`."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def points_text(change: float) -> str:
    """Return a change of a share in points, with its sign: `+0.40`, `-0.20`, `+0.00`."""
    return f"{100 * change:+z.2f}"


def flips_text(change: QualityChange) -> str:
    """Return how many examples were gained and lost: `+2 / -5`."""
    return f"+{change.flips_gained} / -{change.flips_lost}"


def change_text(change: QualityChange) -> str:
    """Return the change in quality in points, with the examples that changed: `-0.30 points: +2 / -5 examples`."""
    return f"{points_text(-change.drop)} points: {flips_text(change)} examples"


def mac_share_text(evidence: Evidence, precision: str) -> str:
    """Return the share of the multiply-accumulates that ran in `precision`: `75%`, or `unknown`."""
    share = evidence.mac_share(precision)
    return "unknown" if share is None else share_text(share)


def share_text(share: float) -> str:
    """Return a share in percent: `100%` only if it is all, and `0%` only if it is nothing; else `>99%` and `<1%`."""
    text = f"{share:.0%}"
    if text == "100%" and share < 1:
        return ">99%"
    return "<1%" if text == "0%" and share > 0 else text


def task_title(task: str, source: str, drawn: int | None) -> str:
    """Return a task with what was used of its data if that is not all: `mnist (sample, 500 training examples)`.

    Args:
        task: Its name.
        source: "full", "sample" or "synthetic".
        drawn: How many training examples were drawn; None if all were used.
    """
    parts = [] if source == "full" else [source]
    if drawn is not None:
        parts.append(f"{drawn:,} training example{'s' * (drawn != 1)}")
    return f"{task} ({', '.join(parts)})" if parts else task


def threads_text(count: int) -> str:
    """Return `1 thread` or `4 threads`."""
    return f"{count} thread{'s' * (count != 1)}"


def listed(names: Sequence[str], most: int | None = None) -> str:
    """Return `a`, `a and b`, or `a, b and c`; with more than `most` names, the first ones and the number of others."""
    if most is not None and len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} others"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def grouped(left: Sequence[LeftInFloat], most: int = 3) -> list[tuple[str, str]]:
    """Return the layers for each reason as text: `[("a, b and 7 others", "not quantized"), ("c", "it is shared")]`.

    Args:
        left: The layers that were left in float.
        most: The reasons that are given, and the layers named for each; the other layers are counted together.
    """
    reasons = list(dict.fromkeys(layer.reason for layer in left))
    shown = reasons if len(reasons) <= most else reasons[: most - 1]
    groups = [(listed([layer.name for layer in left if layer.reason == reason], most), reason) for reason in shown]
    others = sum(layer.reason not in shown for layer in left)
    return [*groups, (f"{others} others", "for other reasons")] if others else groups
