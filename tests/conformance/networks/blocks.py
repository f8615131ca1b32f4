"""Small networks of the architectures that people bring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conformance.networks.convolutions import OnImages


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the size, and batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class LeNet(nn.Module):
    """LeNet with Tanh and average pooling."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        side = inputs[0].shape[1]
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * ((side // 2 - 4) // 2) ** 2, 32), nn.Tanh(), nn.Linear(32, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Vgg(OnImages):
    """Convolutions, batch normalisation and max pooling, as in VGG."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        first = [*conv_norm(1, 8), nn.ReLU(True), nn.MaxPool2d(2)]
        second = [*conv_norm(8, 16), nn.ReLU(True), *conv_norm(16, 16), nn.ReLU(True), nn.MaxPool2d(2)]
        super().__init__(inputs, classes, *first, *second, width=16)


class BasicBlock(nn.Module):
    """Two convolutions whose input is added, with a shortcut where sizes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inputs, outputs, 3, stride)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv_norm(outputs, outputs)
        self.shortcut = nn.Sequential(*(conv_norm(inputs, outputs, 1, stride) if inputs != outputs else []))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet(OnImages):
    """A ResNet of basic blocks."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        stem = [*conv_norm(1, 8), nn.ReLU(inplace=True)]
        super().__init__(inputs, classes, *stem, BasicBlock(8, 8, 1), BasicBlock(8, 16, 2), width=16)


class Bottleneck(nn.Module):
    """A narrow convolution between two of one pixel, whose input is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(width, width // 2, 1),
            nn.ReLU(),
            *conv_norm(width // 2, width // 2, groups=2),
            nn.ReLU(),
            *conv_norm(width // 2, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x)


class ResNeXt(OnImages):
    """A ResNeXt of bottleneck blocks in groups."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, *conv_norm(1, 8, stride=2), nn.ReLU(), Bottleneck(8), Bottleneck(8))


class InvertedResidual(nn.Module):
    """Expand, convolve each channel, project; the input is added where sizes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        hidden, self.added = 2 * inputs, stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *conv_norm(inputs, hidden, 1),
            activation(),
            *conv_norm(hidden, hidden, 3, stride, hidden),
            activation(),
            *conv_norm(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.added else self.conv(x)


class MobileNetV2(OnImages):
    """Inverted residuals with ReLU6, as in MobileNetV2."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        blocks = InvertedResidual(8, 8, 1, nn.ReLU6), InvertedResidual(8, 16, 2, nn.ReLU6)
        super().__init__(inputs, classes, *conv_norm(1, 8, stride=2), nn.ReLU6(), *blocks, width=16)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, classes))


class SqueezeExcite(nn.Module):
    """Scales the channels by a gate that is computed from their means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(width, width // 2, 1), nn.Conv2d(width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(self.pool(x)))))


class MobileNetV3(OnImages):
    """Inverted residuals with Hardswish, and squeeze-and-excitation, as in MobileNetV3."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        blocks = InvertedResidual(8, 8, 1, nn.Hardswish), SqueezeExcite(8)
        super().__init__(inputs, classes, *conv_norm(1, 8, stride=2), nn.Hardswish(), *blocks)


class EfficientNet(OnImages):
    """Inverted residuals with SiLU, as in EfficientNet."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        blocks = InvertedResidual(8, 8, 1, nn.SiLU), InvertedResidual(8, 8, 2, nn.SiLU)
        super().__init__(inputs, classes, *conv_norm(1, 8, stride=2), nn.SiLU(), *blocks)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, LayerNorm over channels, and Linear layers over them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.up, self.act, self.down = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.down(self.act(self.up(self.norm(self.conv(x).permute(0, 2, 3, 1))))) * self.scale
        return x + inner.permute(0, 3, 1, 2)


class ConvNeXt(OnImages):
    """A block of ConvNeXt behind patches."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 8, 4, 4), ConvNeXtBlock(8))


class DenseNet(OnImages):
    """Convolutions that each take all outputs before them."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, width=12)
        self.first, self.second = nn.Sequential(*conv_norm(1, 4)), nn.Sequential(*conv_norm(4, 4))
        self.third = nn.Sequential(*conv_norm(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.first(x))
        second = torch.cat([first, F.relu(self.second(first))], 1)
        return self.head(torch.cat([second, F.relu(self.third(second))], 1).mean((2, 3)))


class Inception(OnImages):
    """Branches of different kernels and of pooling, concatenated."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, nn.Conv2d(1, 4, 3, 2), nn.ReLU(), width=12)
        self.one, self.three = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(torch.cat([F.relu(self.one(x)), F.relu(self.three(x)), self.pool(x)], 1).mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and concatenated with what was on the way down."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        self.down1, self.pool = nn.Sequential(*conv_norm(1, 8), nn.ReLU()), nn.MaxPool2d(2)
        self.down2 = nn.Sequential(*conv_norm(8, 16), nn.ReLU())
        self.up, self.merge = nn.ConvTranspose2d(16, 8, 2, 2), nn.Sequential(*conv_norm(16, 8), nn.ReLU())
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        up = self.up(self.down2(self.pool(first)))
        return self.head(self.merge(torch.cat([first, up], 1))).mean((2, 3))


class UpsamplingUNet(nn.Module):
    """The same shape with interpolation in place of the transposed convolution."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.merge, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down1(x))
        up = F.interpolate(F.relu(self.down2(first)), size=first.shape[2:], mode="nearest")
        return self.head(F.relu(self.merge(torch.cat([first, up], 1)))).mean((2, 3))


class Autoencoder(nn.Module):
    """An encoder and a decoder; the difference to the input goes into the logits."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, inputs), nn.Sigmoid())
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        return self.head(code) + (self.decoder(code) - x).pow(2).mean(1, keepdim=True)


class TwoBranches(nn.Module):
    """A convolution of the image and Linear layers of its rows' means, joined."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.rows = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].shape[1], 8), nn.ReLU())
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(x), self.rows(x.mean(3))], 1))
