"""LeNet-5 in its common form, with ReLU and max pooling in place of the tanh and average pooling of the paper.

LeCun et al. 1998, Gradient-based learning applied to document recognition, section II.B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantexp.config import Lenet5
from quantexp.results import InputSpec
from quantexp.system.errors import ConfigError

SIDE = 32  # pixels
CHANNELS = (1, 3)


class LeNet5(nn.Module):
    """Two convolutions of 5x5, each with ReLU and 2x2 max pooling, then three linear layers.

        (batch, channels, 32, 32) -> (batch, 6, 14, 14) -> (batch, 16, 5, 5) -> 400 -> 120 -> 84 -> classes

    Args:
        shape: Shape of one image: (1, 32, 32) or (3, 32, 32). Stored networks of format 3 take flat images instead,
            (1024,) or (3072,), in the order channel, row, column.
        classes: Width of the output, shape (batch, classes), logits.

    Raises:
        ConfigError: If `shape` is another one.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        shapes = [(channels, SIDE, SIDE) for channels in CHANNELS]
        image = next((known for known in shapes if tuple(shape) in (known, (math.prod(known),))), None)
        if image is None:
            listed = " or ".join("x".join(map(str, known)) for known in shapes)
            raise ConfigError(f"model=lenet5 takes images of {listed}, got {'x'.join(map(str, shape))}; resize them")
        self.flat = image if len(shape) == 1 else None
        self.features = nn.Sequential(
            nn.Conv2d(image[0], 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.flat:
            images = images.unflatten(1, self.flat)  # type: ignore[no-untyped-call]
        maps = torch.flatten(
            self.features(images), 1
        )  # FX keeps int8 through this function, but not through the method flatten
        logits: Tensor = self.classifier(maps)
        return logits


def build(model: Lenet5, inputs: Sequence[InputSpec], classes: int) -> LeNet5:
    """Build the network for images."""
    return LeNet5(inputs[0].measured, classes)
