"""No labels: nothing is trained and there is no accuracy; agreement and output SQNR say how close two networks are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quantexp.results import Quality, QualityChange
from quantexp.system.errors import TrainingError


@dataclass(frozen=True)
class Unlabelled:
    """The objective of examples without labels; the greatest output stands for what a network predicts."""

    name: str = "unlabelled"
    headline: str = "output_sqnr_db"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Refuse to train. Raises TrainingError."""
        raise TrainingError("training needs labels, data=synthetic has none; use data=full or data=sample")

    def mean_loss(self, outputs: Tensor, labels: Tensor | None) -> None:
        """There is none."""

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the index of the greatest output of each example."""
        return outputs.argmax(1)

    def quality(self, outputs: Tensor, labels: Tensor | None) -> Quality | None:
        """There is none."""
        return None

    def change(self, reference: Tensor, outputs: Tensor, labels: Tensor | None) -> QualityChange | None:
        """There is none."""
        return None
