"""Networks with one kind of convolution, pooling or change of size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OnImages(nn.Module):
    """Classifies the mean over the positions of what `features`, with 8 channels, makes of an image."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int, *features: nn.Module, width: int = 8) -> None:
        super().__init__()
        assert inputs[0].shape[0] == 1, "grey images"
        self.features = nn.Sequential(*features)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Conv1d(nn.Module):
    """A convolution over the rows."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.side = math.isqrt(inputs)
        self.conv, self.head = nn.Conv1d(self.side, 8, 3), nn.Linear(8 * (self.side - 2), classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x.view(-1, self.side, self.side))).flatten(1))


class Conv1dNorm(nn.Module):
    """Two convolutions over the rows with batch normalisation, dilated and with stride."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.side = math.isqrt(inputs)
        self.net = nn.Sequential(
            nn.Conv1d(self.side, 8, 3, dilation=2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, 2), nn.ReLU()
        )
        self.pool, self.head = nn.AdaptiveAvgPool1d(1), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.net(x.view(-1, self.side, self.side))).flatten(1))


class Conv2d(OnImages):
    """Two convolutions and ReLU."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())


class Conv3d(nn.Module):
    """A convolution over frames: the rows in four groups."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(1, 4, (2, 3, 3)), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.unflatten(2, (4, -1)).contiguous()
        return self.head(torch.relu(self.conv(frames)).mean((2, 3, 4)))


class Strided(OnImages):
    """Convolutions with stride, with different sizes in height and width."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(
            inputs, classes, nn.Conv2d(1, 6, (3, 5), (2, 1), (1, 2)), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU()
        )


class Depthwise(OnImages):
    """A depthwise convolution between two others."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()
        super().__init__(inputs, classes, *layers)


class Grouped(OnImages):
    """A convolution in two groups."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU())


class Dilated(OnImages):
    """A dilated convolution."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 6, 3, dilation=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())


class WithoutBias(OnImages):
    """Convolutions without bias, the last without ReLU."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False))


class SamePadding(OnImages):
    """A convolution with padding="same"."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 8, 3, padding="same"), nn.ReLU())


class ReflectPadding(OnImages):
    """Convolutions whose padding reflects, and repeats."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        first = nn.Conv2d(1, 6, 3, padding=1, padding_mode="reflect")
        second = nn.Conv2d(6, 8, 3, padding=1, padding_mode="replicate")
        super().__init__(inputs, classes, first, nn.ReLU(), second, nn.ReLU())


class ExplicitPadding(OnImages):
    """nn.ZeroPad2d before a convolution, as in networks ported from TensorFlow."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(1, 8, 3, 2), nn.ReLU())


class Transposed(OnImages):
    """A transposed convolution behind a convolution."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        layers = nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.ReLU()
        super().__init__(inputs, classes, *layers, width=4)


class Transposed1d(nn.Module):
    """A transposed convolution over the rows."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.side = math.isqrt(inputs)
        self.up, self.head = nn.ConvTranspose1d(self.side, 8, 3, 2), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.up(x.view(-1, self.side, self.side))).mean(2))


class MaxPools(OnImages):
    """Max pooling, by module and by function."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(self.features(x), 2).mean((2, 3)))


class AveragePools(OnImages):
    """Average pooling, one of whose windows overlap."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        layers = nn.Conv2d(1, 6, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.AvgPool2d(3, 1), nn.ReLU()
        super().__init__(inputs, classes, *layers)


class AdaptivePools(OnImages):
    """Adaptive pooling to two and to one position."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(4), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1)
        super().__init__(inputs, classes, *layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.features(x), 1))


class Interpolated(OnImages):
    """Features that are enlarged by F.interpolate, then convolved."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 8, 3, 2), nn.ReLU())
        self.after = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        large = F.interpolate(self.features(x), scale_factor=2, mode="nearest")
        return self.head(torch.relu(self.after(large)).mean((2, 3)))


class Upsampled(OnImages):
    """nn.Upsample with linear interpolation."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        super().__init__(inputs, classes, nn.Conv2d(1, 8, 3, 2), nn.ReLU(), up, nn.Conv2d(8, 8, 3), nn.ReLU())


class Shuffled(OnImages):
    """Pixel shuffle, and channel shuffle by view and transpose."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        layers = nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(2, 8, 3, groups=2), nn.ReLU()
        super().__init__(inputs, classes, *layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.head(x.mean((2, 3)))


class ChannelsLast(OnImages):
    """Convolutions on another memory layout."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous(memory_format=torch.channels_last))
