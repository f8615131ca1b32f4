"""Networks of Linear layers or convolutions with one kind of activation between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32


class Between(nn.Module):
    """Three Linear layers with an activation between them."""

    def __init__(self, inputs: int, classes: int, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inputs, WIDTH), first, nn.Linear(WIDTH, WIDTH), second, nn.Linear(WIDTH, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Relu(Between):
    """Linear layers and ReLU, in place and not."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.ReLU(inplace=True), nn.ReLU())


class Relu6(Between):
    """ReLU6."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.ReLU6(), nn.ReLU6(inplace=True))


class Elu(Between):
    """ELU."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.ELU(), nn.ELU(alpha=0.5))


class Prelu(Between):
    """PReLU, whose slope is a parameter: one, and one for each feature."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.PReLU(), nn.PReLU(WIDTH))


class LeakyRelu(Between):
    """LeakyReLU."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.LeakyReLU(0.1), nn.LeakyReLU(0.2, inplace=True))


class Gelu(Between):
    """GELU, exact and approximated."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.GELU(), nn.GELU(approximate="tanh"))


class Silu(Between):
    """SiLU and Mish."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.SiLU(), nn.Mish())


class Hardswish(Between):
    """Hardswish."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.Hardswish(), nn.Hardswish(inplace=True))


class Sigmoid(Between):
    """Sigmoid and Hardsigmoid."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.Sigmoid(), nn.Hardsigmoid())


class Tanh(Between):
    """Tanh and Hardtanh."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.Tanh(), nn.Hardtanh())


class Softmax(Between):
    """A softmax between layers."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.Softmax(dim=-1), nn.Softmax(dim=1))


class Selu(Between):
    """SELU and CELU."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.SELU(), nn.CELU())


class Softplus(Between):
    """Softplus and Softsign, for which torch has no int8 kernel."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, nn.Softplus(), nn.Softsign())


class Glu(nn.Module):
    """A gated linear unit, which halves the features."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 2 * WIDTH), nn.GLU(), nn.Linear(WIDTH, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class SwiGlu(nn.Module):
    """The gated block of language models: two projections multiplied."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(inputs, WIDTH, bias=False), nn.Linear(inputs, WIDTH, bias=False)
        self.down = nn.Linear(WIDTH, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Clamp(nn.Module):
    """torch.clamp between layers."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.clamp(self.a(x), 0.0, 1.0))


class FunctionalActivations(nn.Module):
    """Activations that are functions and methods, not modules."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.elu(self.b(F.leaky_relu(self.a(x), 0.1))).sigmoid())


class ConvPrelu(nn.Module):
    """Convolutions with PReLU for each channel."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(inputs[0].shape[0], 6, 3, 2), nn.PReLU(6), nn.Conv2d(6, 8, 3, 2), nn.ELU(), nn.Flatten(1)
        )
        self.head = nn.LazyLinear(classes)
        self(torch.zeros(1, *inputs[0].shape))  # lazy layers get their shapes

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x))


class ConvHardswish(nn.Module):
    """Convolutions with Hardswish and Hardsigmoid."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(inputs[0].shape[0], 6, 3, 2), nn.Hardswish(), nn.Conv2d(6, 8, 3, 2), nn.Hardsigmoid()
        )
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x).mean((2, 3)))
