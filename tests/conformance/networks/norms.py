"""Networks with one kind of normalisation, or of dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conformance.networks.convolutions import OnImages

WIDTH = 32


class Stack(nn.Module):
    """Layers one after another."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class LinearNorm(Stack):
    """Linear, BatchNorm1d and ReLU."""

    def __init__(self, inputs: int, classes: int) -> None:
        first, second = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH)
        norms = nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)
        super().__init__(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), nn.Linear(WIDTH, classes))


class LinearNormWithoutRelu(Stack):
    """Linear and BatchNorm1d, with Tanh behind them."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.Linear(inputs, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Linear(WIDTH, classes))


class NormalisedInput(Stack):
    """BatchNorm1d as the first layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.BatchNorm1d(inputs), nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))


class NormBehindRelu(Stack):
    """BatchNorm1d behind the ReLU, where it cannot be folded."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, classes))


class NormOfBatch(Stack):
    """BatchNorm1d without running statistics: an example's output depends on the others of its batch."""

    def __init__(self, inputs: int, classes: int) -> None:
        norm = nn.BatchNorm1d(WIDTH, track_running_stats=False)
        super().__init__(nn.Linear(inputs, WIDTH), norm, nn.ReLU(), nn.Linear(WIDTH, classes))


class LayerNorm(Stack):
    """LayerNorm, with and without parameters."""

    def __init__(self, inputs: int, classes: int) -> None:
        norms = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, elementwise_affine=False)
        first, second = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH)
        super().__init__(first, norms[0], nn.ReLU(), second, norms[1], nn.GELU(), nn.Linear(WIDTH, classes))


class RmsNorm(Stack):
    """RMSNorm."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.Linear(inputs, WIDTH), nn.RMSNorm(WIDTH), nn.SiLU(), nn.Linear(WIDTH, classes))


class OwnNorm(nn.Module):
    """A normalisation written out, with a parameter that scales."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.a, self.b, self.scale = (
            nn.Linear(inputs, WIDTH),
            nn.Linear(WIDTH, classes),
            nn.Parameter(torch.ones(WIDTH)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(self.scale * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class ConvNorm(OnImages):
    """Convolution, BatchNorm2d and ReLU, twice."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        first = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        second = nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        super().__init__(inputs, classes, *first, *second)


class ConvNormWithoutRelu(OnImages):
    """Convolution and BatchNorm2d, the second without affine parameters."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8, affine=False)
        super().__init__(inputs, classes, *layers)


class PreActivation(OnImages):
    """BatchNorm2d and ReLU before the convolution."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3)
        super().__init__(inputs, classes, nn.BatchNorm2d(1), nn.ReLU(), *layers)


class GroupNorm(OnImages):
    """GroupNorm."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        layers = nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GroupNorm(4, 8), nn.SiLU()
        super().__init__(inputs, classes, *layers)


class InstanceNorm(OnImages):
    """InstanceNorm2d, with running statistics and without."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        norms = nn.InstanceNorm2d(8, affine=True), nn.InstanceNorm2d(8, track_running_stats=True)
        layers = nn.Conv2d(1, 8, 3), norms[0], nn.ReLU(), nn.Conv2d(8, 8, 3), norms[1], nn.ReLU()
        super().__init__(inputs, classes, *layers)


class Dropout(Stack):
    """Dropout between Linear layers."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Dropout(0.2), nn.Linear(WIDTH, classes))


class ConvDropout(OnImages):
    """Dropout of channels between convolutions, beside batch normalisation."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2), nn.Conv2d(8, 8, 3), nn.ReLU()
        super().__init__(inputs, classes, *layers)


class FunctionalDropout(nn.Module):
    """F.dropout that is switched by `training`."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(torch.relu(self.a(x)), 0.2, self.training))


class DropoutLeftOn(nn.Module):
    """F.dropout that is on in evaluation too: the network is random."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(torch.relu(self.a(x)), 0.2))


class Noise(nn.Module):
    """Noise that is added in evaluation too: the network is random."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.a(x))
        return self.b(hidden + 0.1 * torch.randn_like(hidden))
