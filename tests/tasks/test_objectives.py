"""Objectives: what is learned, how good it is, and how two networks compare on the same examples."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import quantexp
from quantexp.results import Quality
from quantexp.statistics.paired import detectable_drop, mcnemar
from quantexp.statistics.proportions import wilson
from quantexp.system.errors import TrainingError
from quantexp.tasks.objectives import classification
from quantexp.tasks.objectives.classification import Classification
from quantexp.tasks.objectives.unlabelled import Unlabelled


def outputs(predicted: Tensor, classes: int) -> Tensor:
    """Outputs of a network that predicts these classes."""
    return torch.nn.functional.one_hot(predicted, classes).float()


def accuracy(predicted: Tensor, labels: Tensor, classes: int) -> Quality:
    found = Classification(classes).quality(outputs(predicted, classes), labels)
    assert found is not None
    return found


def answers(correct: int, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return predictions of two classes of which `correct` are right, and the labels."""
    labels = torch.arange(total) % 2
    wrong = torch.arange(total) >= correct
    return torch.where(wrong, 1 - labels, labels), labels


def right(correct: int, total: int) -> Quality:
    """The accuracy of a model that is right on `correct` of `total` examples of two classes."""
    return accuracy(*answers(correct, total), 2)


def test_eighty_per_cent_on_the_test_split_of_sst2_is_known_to_two_point_seven_points() -> None:
    found = right(698, 872)
    assert found.name == "accuracy"
    assert (found.correct, found.total) == (698, 872)
    assert found.value == 698 / 872
    assert (found.low, found.high) == wilson(698, 872)
    assert found.value == pytest.approx(0.80, abs=0.001)
    assert (found.high - found.low) / 2 == pytest.approx(0.027, abs=0.0005)


def test_at_the_ends_an_accuracy_is_zero_and_one() -> None:
    none, all_ = right(0, 50), right(50, 50)
    assert (none.value, none.low) == (0.0, 0.0)
    assert (all_.value, all_.high) == (1.0, 1.0)


def test_the_confusion_counts_each_label_with_each_prediction() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 2, 1, 0, 1])
    found = accuracy(predicted, labels, 4)
    assert found.confusion == ((2, 0, 1, 0), (1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0))
    assert found.correct == 3
    assert found.per_class == (2 / 3, 1 / 2, 0.0, None), "of the last class there is no example"


def test_the_confusion_counts_every_example_once_and_its_diagonal_those_that_are_right() -> None:
    drawn = torch.Generator().manual_seed(1)
    labels, predicted = (torch.randint(0, 10, (1000,), generator=drawn) for _ in range(2))
    found = accuracy(predicted, labels, 10)
    assert sum(map(sum, found.confusion)) == found.total == 1000
    assert sum(row[label] for label, row in enumerate(found.confusion)) == found.correct
    assert [sum(row) for row in found.confusion] == labels.bincount(minlength=10).tolist()
    assert [sum(column) for column in zip(*found.confusion, strict=True)] == predicted.bincount(minlength=10).tolist()


def test_of_many_classes_the_most_frequent_errors_are_kept_in_place_of_the_matrix() -> None:
    labels = torch.tensor([7, 7, 7, 7, 150, 150, 3])
    predicted = torch.tensor([9, 9, 8, 7, 7, 7, 3])
    assert len(accuracy(torch.tensor([9]), torch.tensor([7]), 100).confusion) == 100
    found = accuracy(predicted, labels, 151)
    assert found.confusion == ()
    assert found.confused == ((7, 9, 2), (150, 7, 2), (7, 8, 1))
    assert (found.by_class[7], found.by_class[3], found.by_class[150], found.by_class[0]) == (
        (4, 1),
        (1, 1),
        (2, 0),
        (0, 0),
    )
    assert (found.per_class[7], found.per_class[0]) == (1 / 4, None)
    assert (found.correct, found.total) == (2, 7)


def test_no_more_than_a_hundred_kinds_of_errors_are_kept() -> None:
    labels = torch.arange(200)
    assert len(accuracy((labels + 1) % 200, labels, 200).confused) == 100


def test_the_class_with_the_greatest_output_is_predicted() -> None:
    given = torch.tensor([[0.1, 0.2, -3.0], [5.0, 4.0, 4.9], [-2.0, -3.0, -1.0]])
    assert Classification(3).predictions(given).tolist() == [1, 0, 2]


def test_the_loss_that_is_learned_is_the_mean_cross_entropy() -> None:
    given, labels = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]], requires_grad=True), torch.tensor([1, 0])
    expected = [
        -math.log(math.exp(row[label]) / sum(map(math.exp, row)))
        for row, label in zip(given.tolist(), [1, 0], strict=True)
    ]
    loss = Classification(3).loss(given, labels)
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-6)
    assert loss.requires_grad
    assert Classification(3).mean_loss(given, labels) == pytest.approx(sum(expected) / 2, rel=1e-12)


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_classes() -> None:
    measure = Classification(10).mean_loss
    assert measure(torch.zeros(5, 10), torch.arange(5)) == pytest.approx(math.log(10))
    assert measure(torch.full((5, 10), math.nan), torch.arange(5)) is None
    assert measure(torch.zeros(5, 10), None) is None


def test_two_networks_are_compared_by_their_flips_on_the_same_examples() -> None:
    drawn = torch.Generator().manual_seed(0)
    labels, before, after = (torch.randint(0, 3, (200,), generator=drawn) for _ in range(3))
    change = Classification(3).change(outputs(before, 3), outputs(after, 3), labels)
    assert change is not None
    gained = [at for at in range(200) if before[at] != labels[at] == after[at]]
    lost = [at for at in range(200) if before[at] == labels[at] != after[at]]
    assert (change.name, change.gained_examples, change.lost_examples) == ("accuracy", tuple(gained), tuple(lost))
    assert (change.flips_gained, change.flips_lost) == (len(gained), len(lost))
    assert change.drop == accuracy(before, labels, 3).value - accuracy(after, labels, 3).value
    assert change.drop == pytest.approx((len(lost) - len(gained)) / 200)
    assert change.p_value == mcnemar(len(gained), len(lost))
    assert change.detectable_drop == detectable_drop(len(gained), len(lost), 200)


def test_without_labels_there_is_neither_a_quality_nor_a_change_of_it() -> None:
    given = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    for objective in (Classification(3), Unlabelled()):
        assert objective.quality(given, None) is None
        assert objective.change(given, given + 1, None) is None
        assert objective.mean_loss(given, None) is None


def test_what_has_no_labels_predicts_the_greatest_output_and_refuses_to_be_learned() -> None:
    objective, given = Unlabelled(), torch.tensor([[0.1, 0.2], [5.0, 4.0]])
    assert objective.predictions(given).tolist() == [1, 0]
    assert (objective.name, objective.headline) == ("unlabelled", "output_sqnr_db")
    with pytest.raises(
        TrainingError, match="training needs labels, data=synthetic has none; use data=full or data=sample"
    ):
        objective.loss(given, torch.tensor([1, 0]))


@pytest.mark.parametrize(
    ("name", "defined"), [("cross_entropy(", ""), ("wilson(", "proportions.py"), ("mcnemar(", "paired.py")]
)
def test_loss_interval_and_test_of_an_accuracy_are_called_in_objectives_only(name: str, defined: str) -> None:
    package = Path(quantexp.__file__).parent
    callers = {path.relative_to(package) for path in package.rglob("*.py") if name in path.read_text()}
    assert callers
    others = {Path("analysis/gate.py")} if defined == "proportions.py" else set()  # of an agreement, without labels
    assert {str(path.parent) for path in callers - others if path.name != defined} == {"tasks/objectives"}


def test_the_loss_does_not_depend_on_how_many_examples_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(10, 4, generator=draw), torch.randint(0, 4, (10,), generator=draw)
    monkeypatch.setattr(classification, "PIECE", 3)
    expected = float(torch.nn.functional.cross_entropy(logits.double(), labels))
    assert Classification(4).mean_loss(logits, labels) == pytest.approx(expected, rel=1e-12)
