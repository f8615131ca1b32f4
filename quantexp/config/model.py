"""The network that is trained and quantized."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from quantexp.config.inputs import Kind, Taken
from quantexp.config.option import WEIGHTS, Affects, Option, option
from quantexp.config.own import own_code_faults


@dataclass
class Model(Option):
    """A network that can be built for any task that gives a kind of input which it takes.

    `takes` has these kinds, the preferred one first; None where a user's class says so.
    """

    group: ClassVar[str] = "model"
    choice_affects: ClassVar[Affects] = WEIGHTS
    takes: ClassVar[tuple[Taken, ...] | None] = ()

    @property
    def size(self) -> int | None:
        """The side of the only images that it takes, in pixels; None where any will do."""
        return next((taken.size for taken in self.takes or () if taken.size), None)


@dataclass
class Mlp(Model):
    """A multilayer perceptron: Linear and ReLU in turn, Linear at the end."""

    name: ClassVar[str] = "mlp"
    implementation: ClassVar[str] = "quantexp.models.mlp"
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.features),)

    hidden: list[int] | None = option(
        "widths of the hidden layers; null takes task.hidden", None, affects=WEIGHTS, at_least=1
    )


@dataclass
class Lenet5(Model):
    """LeNet-5: two convolutions and three linear layers, for 1x32x32 images (mnist, padded) and 3x32x32 ones."""

    name: ClassVar[str] = "lenet5"
    implementation: ClassVar[str] = "quantexp.models.lenet5"
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.image, size=32),)


@dataclass
class CustomModel(Model):
    """A network of your own: a class or a function, called as target(inputs=..., classes=..., **arguments)."""

    name: ClassVar[str] = "custom"
    implementation: ClassVar[str] = "quantexp.models.custom"
    takes: ClassVar[tuple[Taken, ...] | None] = None

    target: str | None = option(
        "the class or function, as package.module.Class; it is imported, so its code runs", None, affects=WEIGHTS
    )
    arguments: Any = option("what else it is called with, as in {width: 64}", None, affects=WEIGHTS)

    def __post_init__(self) -> None:
        if self.arguments is None:  # the default: a dict in its place could only be added to, with +
            self.arguments = {}
        super().__post_init__()

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from own_code_faults("model", self.target, self.arguments, given=("inputs", "classes"))


MODELS: tuple[type[Model], ...] = (Mlp, Lenet5, CustomModel)
