"""Networks whose weights are computed, shared with functions, or those of a class of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from tests.conformance.networks.convolutions import OnImages
from tests.conformance.networks.structure import WIDTH, Pair


class WeightNormOld(Pair):
    """Weight norm by a hook."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        weight_norm(self.a)


class WeightNorm(Pair):
    """Weight norm by a parametrization."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        parametrizations.weight_norm(self.a)
        parametrizations.weight_norm(self.b)


class WeightNormConv(OnImages):
    """Weight norm of a convolution, by a hook."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, weight_norm(nn.Conv2d(1, 6, 3)), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())


class SpectralNormOld(Pair):
    """Spectral norm by a hook."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        spectral_norm(self.a)


class SpectralNorm(Pair):
    """Spectral norm by a parametrization."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        parametrizations.spectral_norm(self.a)


class Pruned(Pair):
    """Half of the weights of a layer pruned, and all biases of another."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        prune.l1_unstructured(self.a, "weight", 0.5)
        prune.random_unstructured(self.b, "bias", 0.5)


class Symmetric(nn.Module):
    """Makes a matrix symmetric."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class OwnParametrization(Pair):
    """A weight that a parametrization of one's own makes symmetric."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.middle = nn.Linear(WIDTH, WIDTH)
        parametrize.register_parametrization(self.middle, "weight", Symmetric())

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.middle(torch.relu(self.a(x)))))


class Orthogonal(Pair):
    """A weight that is kept orthogonal."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        parametrizations.orthogonal(self.b)


class FunctionalLinear(nn.Module):
    """F.linear with parameters, and no layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(WIDTH, inputs) / 16), nn.Parameter(torch.randn(classes, WIDTH) / 6)
        self.b1 = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.w1, self.b1)), self.w2)


class FunctionalBeside(Pair):
    """F.linear with a parameter beside layers."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.middle = nn.Parameter(torch.randn(WIDTH, WIDTH) / 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(F.linear(torch.relu(self.a(x)), self.middle)))


class FunctionalConv(nn.Module):
    """F.conv2d with parameters, before a Linear layer."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        self.kernel, self.bias = nn.Parameter(torch.randn(8, 1, 3, 3) / 3), nn.Parameter(torch.zeros(8))
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(F.conv2d(x, self.kernel, self.bias, stride=2)).mean((2, 3)))


class OwnLinear(nn.Linear):
    """A Linear layer of another name."""


class Subclass(nn.Module):
    """A subclass of Linear that changes nothing, beside a Linear layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.a, self.b = OwnLinear(inputs, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class ScaledLinear(nn.Linear):
    """A Linear layer that scales its weight in forward."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * 0.5, self.bias)


class SubclassWithForward(nn.Module):
    """A subclass of Linear that computes something else."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.a, self.b = ScaledLinear(inputs, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Standardized(nn.Conv2d):
    """A convolution that standardizes its weight in forward."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias, self.stride)


class StandardizedConv(OnImages):
    """A convolution whose weights are standardized at each call."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, Standardized(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())


class MatmulParameter(Pair):
    """A product with a parameter by @, and one by torch.matmul with a transposed one."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.m, self.n = (nn.Parameter(torch.randn(WIDTH, WIDTH) / 6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(torch.matmul(torch.relu(self.a(x)) @ self.m, self.n.t())))


class Einsum(Pair):
    """An einsum with a parameter."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.m = nn.Parameter(torch.randn(4, WIDTH, 8) / 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(torch.einsum("bi,kij->bkj", torch.relu(self.a(x)), self.m).flatten(1)))


class Frozen(Pair):
    """A first layer that is not trained."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.a.requires_grad_(False)


class Unused(Pair):
    """A layer that is never called, and a parameter that no one reads."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.unused, self.left = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.zeros(3))


class DeadChannels(Pair):
    """A layer of whose outputs half are always zero."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        with torch.no_grad():
            self.a.weight[::2], self.a.bias[::2] = 0.0, -1.0


class ColumnMajor(Pair):
    """Weights that lie in memory column by column, as those of orthogonal initialization do."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        for layer in (self.a, self.b):
            layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())


class TinyWeights(Pair):
    """A layer with weights near 1e-6, and one near 1e3."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        with torch.no_grad():
            self.a.weight.mul_(1e-5)
            self.a.bias.zero_()
            self.b.weight.mul_(1e4)
