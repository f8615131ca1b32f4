"""What is learned and how good it is: loss, quality, paired comparison. A module a kind.

Cross entropy, the class that outputs predict and McNemar's test are named here only; whatever stands above
handles a name, a value and an interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from quantexp.results import Quality, QualityChange

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """A kind of objective."""

    @property
    def name(self) -> str:
        """What it is called in a report."""

    @property
    def headline(self) -> str:
        """The name of the figure that says how good a quantized network is."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch, which training makes small."""

    def mean_loss(self, outputs: Tensor, labels: Tensor | None) -> float | None:
        """Return the mean loss in double precision, None where there is none or it is not finite."""

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return what the outputs say of each example, shape (examples,)."""

    def quality(self, outputs: Tensor, labels: Tensor | None) -> Quality | None:
        """Return how good the outputs are, None without labels."""

    def change(self, reference: Tensor, outputs: Tensor, labels: Tensor | None) -> QualityChange | None:
        """Compare the outputs of two networks on the same examples, None without labels."""
