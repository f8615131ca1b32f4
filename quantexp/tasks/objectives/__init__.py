"""The objectives: loss, quality and paired comparison. There is one module for each kind.

Only these modules know about cross entropy, predicted classes and McNemar's test; all other code handles a name, a
value and an interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from quantexp.results import Quality, QualityChange

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """The interface of an objective."""

    @property
    def name(self) -> str:
        """The name of the objective in a report."""

    @property
    def headline(self) -> str:
        """The name of the metric that measures how good a quantized network is."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch, which training minimizes."""

    def mean_loss(self, outputs: Tensor, labels: Tensor | None) -> float | None:
        """Return the mean loss in double precision, None if it is not finite or there are no labels."""

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the prediction for each example, shape (examples,)."""

    def quality(self, outputs: Tensor, labels: Tensor | None) -> Quality | None:
        """Return the quality of the outputs, None without labels."""

    def change(self, reference: Tensor, outputs: Tensor, labels: Tensor | None) -> QualityChange | None:
        """Compare the outputs of two networks on the same examples, None without labels."""
