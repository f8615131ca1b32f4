"""The network that is trained and quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from quantexp.config.option import Option, option

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Model(Option):
    """A network that can be built for any task whose inputs and classes it is told."""

    group: ClassVar[str] = "model"

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
