"""LeNet-5, as many notebooks teach it: with ReLU and max pooling where the paper has tanh and averages.

LeCun et al. 1998, Gradient-based learning applied to document recognition, section II.B.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantexp.system.errors import ConfigError

SIDE = 32  # pixels
CHANNELS = (1, 3)


class LeNet5(nn.Module):
    """Two convolutions of 5x5, each with ReLU and 2x2 max pooling, then three linear layers.

        (batch, channels, 32, 32) -> (batch, 6, 14, 14) -> (batch, 16, 5, 5) -> 400 -> 120 -> 84 -> classes

    Args:
        inputs: Values of one example, which say whether images are 1x32x32 (1024) or 3x32x32 (3072). The input has
            shape (batch, inputs), as a task gives it: channel after channel, each row by row.
        classes: Width of the output, shape (batch, classes), unnormalised log-probabilities.

    Raises:
        ConfigError: If `inputs` are no such images.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        shapes = {channels * SIDE**2: (channels, SIDE, SIDE) for channels in CHANNELS}
        if inputs not in shapes:
            known = " or ".join(f"{size} values ({'x'.join(map(str, shape))})" for size, shape in shapes.items())
            raise ConfigError(f"LeNet-5 takes images of {known}, got {inputs} values; bring them to one of these sizes")
        self.shape = shapes[inputs]
        self.features = nn.Sequential(
            nn.Conv2d(self.shape[0], 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        images: Tensor = x.unflatten(1, self.shape)  # type: ignore[no-untyped-call]
        maps = torch.flatten(self.features(images), 1)  # FX takes int8 through this, not through the method flatten
        logits: Tensor = self.classifier(maps)
        return logits
