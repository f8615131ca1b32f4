"""Comparison of two quantized networks through their float network. Does not import torch."""

from __future__ import annotations

from quantexp.results import QualityChange


def change_between(first: QualityChange, second: QualityChange, examples: int) -> QualityChange:
    """Return the change from the first network to the second, by the exact McNemar test.

    Their correct examples differ where only one of them differs from the float network.

    Args:
        first: The change from the float network to the first one.
        second: The change from the float network to the second one, on the same examples.
        examples: How many examples both were evaluated on.
    """
    from quantexp.statistics.paired import detectable_drop, mcnemar  # import scipy only where it is needed

    gained_first, gained_second = set(first.gained_examples), set(second.gained_examples)
    lost_first, lost_second = set(first.lost_examples), set(second.lost_examples)
    gained = sorted((gained_second - gained_first) | (lost_first - lost_second))
    lost = sorted((gained_first - gained_second) | (lost_second - lost_first))
    return QualityChange(
        name=first.name,
        drop=(len(lost) - len(gained)) / examples,
        flips_gained=len(gained),
        flips_lost=len(lost),
        p_value=mcnemar(len(gained), len(lost)),
        detectable_drop=detectable_drop(len(gained), len(lost), examples),
        gained_examples=tuple(gained),
        lost_examples=tuple(lost),
    )
