"""Examples without labels: no training and no accuracy; agreement and output SQNR compare two networks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quantexp.results import Quality, QualityChange
from quantexp.system.errors import TrainingError


@dataclass(frozen=True)
class Unlabelled:
    """The objective for examples without labels; the prediction is the index of the largest output."""

    name: str = "unlabelled"
    headline: str = "output_sqnr_db"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Raise TrainingError: without labels nothing can be trained."""
        raise TrainingError("training needs labels, data=synthetic has none; use data=full or data=sample")

    def mean_loss(self, outputs: Tensor, labels: Tensor | None) -> None:
        """Return None: there is no loss without labels."""

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the index of the largest output for each example."""
        return outputs.argmax(1)

    def quality(self, outputs: Tensor, labels: Tensor | None) -> Quality | None:
        """Return None: there is no quality without labels."""
        return None

    def change(self, reference: Tensor, outputs: Tensor, labels: Tensor | None) -> QualityChange | None:
        """Return None: there is no quality without labels."""
        return None
