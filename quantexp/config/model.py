"""The network that is trained and quantized."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from quantexp.config.option import Option, option
from quantexp.system.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Model(Option):
    """A network that can be built for any task whose inputs and classes it is told."""

    group: ClassVar[str] = "model"
    side: ClassVar[int | None] = None  # of the square images that it takes, in pixels; None where any inputs do

    def check(self) -> None:
        """Make sure, before torch is imported, that the network's code is there. Raises ConfigError."""

    def source(self) -> dict[str, str]:
        """Return what, beside the settings, tells that the network is the same; empty for those of quantexp."""
        return {}

    def build(self, inputs: int, classes: int) -> nn.Module:
        """Build the network with fresh weights, drawn from torch's global random state."""
        raise NotImplementedError


@dataclass
class Mlp(Model):
    """A multilayer perceptron: Linear and ReLU in turn, Linear at the end."""

    name: ClassVar[str] = "mlp"

    hidden: list[int] | None = option("widths of the hidden layers; null takes task.hidden", None, at_least=1)

    def build(self, inputs: int, classes: int) -> nn.Module:
        from quantexp.models.mlp import MLP

        return MLP(inputs, self.hidden or [], classes)


@dataclass
class Lenet5(Model):
    """LeNet-5: two convolutions and three linear layers, for 1x32x32 images (mnist, padded) and 3x32x32 ones."""

    name: ClassVar[str] = "lenet5"
    side: ClassVar[int | None] = 32

    def build(self, inputs: int, classes: int) -> nn.Module:
        from quantexp.models.lenet5 import LeNet5

        return LeNet5(inputs, classes)


@dataclass
class Custom(Model):
    """A network of your own: a torch.nn.Module, built as Class(inputs=..., classes=..., **arguments)."""

    name: ClassVar[str] = "custom"

    target: str | None = option("its class, as package.module.Class; it is imported, so its code runs", None)
    arguments: Any = option("what else its constructor takes, as in {width: 64}", None)

    def __post_init__(self) -> None:
        if self.arguments is None:  # the default: a dict in its place could only be added to, with +
            self.arguments = {}
        super().__post_init__()

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        parts = str(self.target).split(".")
        if not self.target:
            yield "model=custom needs a class, got none; give model.target=package.module.Class"
        elif len(parts) < 2 or not all(part.isidentifier() for part in parts):
            yield f"model.target must be a class, written package.module.Class, got {self.target!r}"
        if not isinstance(self.arguments, dict):
            yield f"model.arguments must be names with values, such as {{width: 64}}, got {self.arguments!r}"
            return
        for name in self.arguments:
            if name in ("inputs", "classes"):
                yield f"model.arguments.{name} is told by the task, got {self.arguments[name]!r}; leave it out"
            elif not str(name).isidentifier():
                yield f"model.arguments must have names as keys, got {name!r}"
        try:
            json.dumps(self.arguments)
        except (TypeError, ValueError) as error:
            yield f"model.arguments must be plain values, for they are stored as JSON, got {self.arguments!r} ({error})"

    def check(self) -> None:
        from importlib.util import find_spec

        module = str(self.target).rpartition(".")[0]
        try:
            found = find_spec(module) is not None  # imports the packages above the module, not the module
        except Exception as error:  # the user's packages raise whatever they like
            raise ConfigError(f"model.target={self.target}: {module} cannot be found ({error}); correct it") from error
        if not found:
            raise ConfigError(
                f"model.target={self.target} must be importable, there is no module {module}; "
                "install it, or start where it lies with `python -m quantexp`"
            )

    def source(self) -> dict[str, str]:
        from quantexp.models.custom import source_digest

        return {"source": source_digest(str(self.target))}

    def build(self, inputs: int, classes: int) -> nn.Module:
        from quantexp.models import custom

        return custom.build(self, inputs, classes)
