"""The classes of the user's own labels, and what about them deserves a warning. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from quantexp.results import Finding
from quantexp.system.errors import DataError

IMBALANCE = 10  # times as many examples in the largest class as in the smallest
MAJORITY = 0.8  # share of the largest class
SHOWN = 10  # classes in an error


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, in the order of their labels: by number if all are integers, else by name."""

    values: tuple[str, ...]

    @classmethod
    def of(cls, values: Iterable[str], where: str) -> Classes:
        """Return the classes of training labels. Raises DataError, which names `where`, if there are fewer than two."""
        found = set(values)
        if len(found) < 2:
            raise DataError(
                f"{where}: a classification needs at least two classes, found {_listed(found)}; add examples of others"
            )
        if all(_is_number(value) for value in found):
            return cls(tuple(sorted(found, key=int)))
        return cls(tuple(sorted(found)))

    @property
    def names(self) -> tuple[str, ...]:
        """Their names; none if they are the numbers 0, 1, 2, ..."""
        return () if self.values == tuple(map(str, range(len(self.values)))) else self.values

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {value: label for label, value in enumerate(self.values)}

    def labels(self, values: Sequence[str], where: str) -> list[int]:
        """Return the labels of these values. Raises DataError, which names `where`, if train has no such class."""
        known = self._labels
        try:
            return [known[value] for value in values]
        except KeyError as error:
            raise DataError(
                f"{where}: the class {error.args[0]!r} must be in train too, whose classes are {_listed(self.values)}; "
                "correct the label, or add training examples of that class"
            ) from None


def imbalances(trained: Sequence[int], tested: Sequence[int], classes: Classes) -> Iterator[Finding]:
    """Yield a finding for very unequal classes in train, and for a test split of one class.

    Args:
        trained: How many examples of each class are trained on.
        tested: How many of each are in the test split.
        classes: The classes.
    """
    largest, smallest = trained.index(most := max(trained)), trained.index(least := min(trained))
    if least == 0:
        yield Finding("data", f"no example of class {classes.values[smallest]} is left in train to learn from")
    elif most > IMBALANCE * least:
        yield Finding(
            "data",
            f"the classes are unequal: train has {most:,} examples of {classes.values[largest]} and "
            f"{least:,} of {classes.values[smallest]}; accuracy says little about the rare ones",
        )
    if most > MAJORITY * sum(trained):
        yield Finding(
            "data",
            f"{100 * most / sum(trained):.0f} % of train are of class {classes.values[largest]}; a network that always "
            "answers it has a high accuracy",
        )
    if max(tested) == sum(tested):
        only = classes.values[tested.index(max(tested))]
        yield Finding("data", f"all test examples are of class {only}; accuracy is that of one class")


def _is_number(value: str) -> bool:
    """Return whether a label is an integer in its usual form, such as 10 or -1, and not 007."""
    digits = value.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(digits)) == digits


def _listed(values: Iterable[str]) -> str:
    names = sorted(values)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + rest if names else "none"
