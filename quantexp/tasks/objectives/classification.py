"""Classification: one output for each class; cross entropy, accuracy, and McNemar's test for paired comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from quantexp.results import Quality, QualityChange
from quantexp.statistics.paired import detectable_drop, flips, mcnemar
from quantexp.statistics.proportions import wilson
from quantexp.statistics.sqnr import finite

MATRIX = 100  # classes; of more, the confusion matrix would be larger than all other results
PIECE = 2**16  # examples whose loss is computed at once
PAIRS = 100  # of classes that are stored instead


@dataclass(frozen=True)
class Classification:
    """Classification into `classes` classes by the largest output. Labels are int64, in [0, classes)."""

    classes: int
    name: str = "classification"
    headline: str = "accuracy"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy."""
        return cross_entropy(outputs, labels)

    def mean_loss(self, outputs: Tensor, labels: Tensor | None) -> float | None:
        """Return the mean cross entropy in double precision, None if it is not finite."""
        if labels is None:
            return None
        pieces = zip(torch.split(outputs, PIECE), torch.split(labels, PIECE), strict=True)
        total = sum(cross_entropy(some.double(), of_some, reduction="sum").item() for some, of_some in pieces)
        return finite(total / len(labels))

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the class with the largest output for each example."""
        return outputs.argmax(1)

    def quality(self, outputs: Tensor, labels: Tensor | None) -> Quality | None:
        """Return the accuracy with its Wilson interval."""
        if labels is None:
            return None
        predicted = self.predictions(outputs)
        correct, total = int((predicted == labels).sum()), len(labels)
        found = Quality(self.headline, correct / total, *wilson(correct, total), correct, total, ())
        if self.classes > MATRIX:
            return replace(
                found, confused=self._confused(labels, predicted), by_class=self._by_class(labels, predicted)
            )
        cells = self.classes * self.classes
        counts = (labels * self.classes + predicted).bincount(minlength=cells).view(self.classes, self.classes)
        return replace(found, confusion=tuple(tuple(row) for row in counts.tolist()))

    def _confused(self, labels: Tensor, predicted: Tensor) -> tuple[tuple[int, int, int], ...]:
        """Return the most frequent errors as (label, predicted, examples), the most frequent first, then by label."""
        wrong = labels != predicted
        pairs, counts = torch.unique((labels * self.classes + predicted)[wrong], return_counts=True)
        order = counts.argsort(descending=True, stable=True)[:PAIRS]
        return tuple(
            (*divmod(pair, self.classes), count)
            for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
        )

    def _by_class(self, labels: Tensor, predicted: Tensor) -> tuple[tuple[int, int], ...]:
        """Return for each class how many examples it has, and how many of them are right."""
        counts = (one.bincount(minlength=self.classes).tolist() for one in (labels, labels[labels == predicted]))
        return tuple(zip(*counts, strict=True))

    def change(self, reference: Tensor, outputs: Tensor, labels: Tensor | None) -> QualityChange | None:
        """Compare two accuracies on the same examples by the exact McNemar test."""
        if labels is None:
            return None
        before, after = self.predictions(reference), self.predictions(outputs)
        gained, lost = flips(before, after, labels)
        accuracies = [int((predicted == labels).sum()) / len(labels) for predicted in (before, after)]
        return QualityChange(
            name=self.headline,
            drop=accuracies[0] - accuracies[1],
            flips_gained=len(gained),
            flips_lost=len(lost),
            p_value=mcnemar(len(gained), len(lost)),
            detectable_drop=detectable_drop(len(gained), len(lost), len(labels)),
            gained_examples=gained,
            lost_examples=lost,
        )
