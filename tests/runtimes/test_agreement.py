"""What a runtime predicts is compared with eager execution on every evaluated example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quantexp.runtimes.agreement import share_of_equal
from quantexp.system.errors import BenchmarkError

EXAMPLES = 1000


def with_different(count: int, total: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    """Return two predictions for each of `total` examples, which differ in `count` of them."""
    expected = torch.arange(total) % 10
    found = expected.clone()
    found[:count] += 1
    return expected, found


def test_one_percent_of_the_predictions_may_differ_and_no_more() -> None:
    assert share_of_equal("it", *with_different(10), "use another") == pytest.approx(0.99)
    with pytest.raises(BenchmarkError, match=r"^the predictions of it must be .* 99% .*; 11 of 1,000 differ; use anot"):
        share_of_equal("it", *with_different(11), "use another")


def test_a_handful_of_near_ties_is_no_error_among_few_examples() -> None:
    assert share_of_equal("it", *with_different(5, total=20), "use another") == pytest.approx(0.75)
    with pytest.raises(BenchmarkError, match="6 of 20 differ"):
        share_of_equal("it", *with_different(6, total=20), "use another")
