"""The multilayer perceptron of the lab."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from quantexp.config import Mlp
from quantexp.results import InputSpec


class MLP(nn.Module):
    """A multilayer perceptron: Linear and ReLU for each hidden width, then Linear to the classes.

    Args:
        inputs: Number of features; the input has shape (batch, inputs).
        hidden: Widths of the hidden layers; if empty, the network is a linear model.
        classes: Width of the output, shape (batch, classes), logits.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def build(model: Mlp, inputs: Sequence[InputSpec], classes: int) -> MLP:
    """Build the network for inputs of flat features."""
    return MLP(inputs[0].values, model.hidden or [], classes)
