"""Networks whose parts are put together in one unusual way."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.networks.norms import Stack

WIDTH = 32


class Pair(nn.Module):
    """Two Linear layers, `a` and `b`, with ReLU between them."""

    def __init__(self, inputs: int, classes: int, width: int = WIDTH) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Any:
        return self.b(torch.relu(self.a(x)))


class OneLayer(Stack):
    """A single Linear layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.Linear(inputs, classes))


class Residual(Pair):
    """A block whose input is added to its output."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.b(torch.relu(x + self.block(x)))


class Concatenation(Pair):
    """Two branches that are concatenated."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.other, self.b = nn.Linear(inputs, 8), nn.Linear(WIDTH + 8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.cat([torch.relu(self.a(x)), torch.sigmoid(self.other(x))], dim=1))


class Gate(Pair):
    """A branch that is multiplied with the sigmoid of another."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.gate = nn.Linear(inputs, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * torch.sigmoid(self.gate(x)))


class SharedLayer(Stack):
    """A Linear layer that is called twice."""

    def __init__(self, inputs: int, classes: int) -> None:
        again = nn.Linear(WIDTH, WIDTH)
        super().__init__(
            nn.Linear(inputs, WIDTH), nn.ReLU(), again, nn.ReLU(), again, nn.ReLU(), nn.Linear(WIDTH, classes)
        )


class TiedWeights(nn.Module):
    """Two Linear layers with the same weight, transposed by neither: an own bias each."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.first, self.c = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, classes)
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(torch.relu(self.first(x)))))))


class EmptySequential(Pair):
    """A shortcut that is an empty Sequential, and a block that is nn.Identity."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.shortcut, self.nothing = nn.Sequential(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.nothing(self.shortcut(x)))


class Containers(nn.Module):
    """Layers in a ModuleList, a ModuleDict and a Sequential with names; an empty list beside them."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.heads = nn.ModuleDict({"used": nn.Linear(WIDTH, classes), "unused": nn.Linear(WIDTH, 2)})
        self.named = nn.Sequential(OrderedDict(act=nn.ReLU(), drop=nn.Dropout(0.1)))
        self.none = nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.named(block(x))
        return self.heads["used"](x)


class ChildNamedWeight(nn.Module):
    """Children whose names are those of other things: weight, bias, scale."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.bias(self.weight(x)))


class MethodNamedWeight(Pair):
    """Methods whose names are those of parameters of other layers."""

    def weight(self) -> Tensor:
        return self.a.weight

    def bias(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.bias(self.a(x)))


@dataclass
class Result:
    """The output of a network, as in libraries for language models."""

    logits: Tensor
    hidden: Tensor | None = None


class NamedOutput(Pair):
    """An output that has the logits as an attribute."""

    def forward(self, x: Tensor) -> Result:
        hidden = torch.relu(self.a(x))
        return Result(self.b(hidden), hidden)


class TupleOutput(Pair):
    """An output whose first item is the logits."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.a(x))
        return self.b(hidden), hidden


class Factor(Pair):
    """Logits that are divided by a parameter."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.temperature


class Constant(Pair):
    """Hidden values that are multiplied with a number and shifted by a tensor, both plain attributes."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.factor, self.shift = 0.5, torch.full((WIDTH,), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * self.factor + self.shift)


class InPlace(Pair):
    """Statements in place on hidden values."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        hidden[:, ::2] = 0.0
        hidden += 1.0
        return self.b(hidden.relu_())


class InPlaceInput(Pair):
    """Statements in place on the input of the network."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(1.0).clamp_(-1.0, 1.0))


class ControlFlow(Pair):
    """A branch that depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.a(x))
        if hidden.mean() > 1.0:
            hidden = hidden * 0.5
        return self.b(hidden)


class ControlFlowOnShape(Pair):
    """A branch that depends on the batch size."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.a(x))
        if x.shape[0] > 1:
            hidden = hidden * 0.5
        return self.b(hidden)


class Hook(Pair):
    """A forward hook that changes the output of a layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.a.register_forward_hook(lambda module, inputs, output: output * 2.0)


class PreHook(Pair):
    """A forward pre-hook that changes the input of a layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.b.register_forward_pre_hook(lambda module, inputs: (inputs[0] - 0.5,))


class ScriptedChild(nn.Module):
    """A child that torch.jit has scripted."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.child = torch.jit.script(nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU()))
        self.b = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.child(x))


class ExtraState(Pair):
    """A network with state beside its tensors, by get_extra_state."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.factor = 0.5

    def get_extra_state(self) -> dict[str, float]:
        return {"factor": self.factor}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.factor = state["factor"]

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * self.factor)


class Views(Pair):
    """Hidden values that are viewed, permuted, flattened, squeezed and sliced."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.a(x)).view(-1, 4, WIDTH // 4).permute(0, 2, 1).flatten(1)
        return self.b(hidden.unsqueeze(1).squeeze(1)[:, :WIDTH].reshape(-1, WIDTH))


class Chunks(Pair):
    """Hidden values that are chunked, split and stacked."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, dim=1)
        parts = torch.split(torch.relu(first), WIDTH // 4, dim=1)
        return self.b(torch.cat([torch.stack(parts, 1).flatten(1), second], 1))


class Bilinear(Pair):
    """nn.Bilinear of two projections."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.other, self.both = nn.Linear(inputs, 8), nn.Bilinear(WIDTH, 8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.both(self.a(x), self.other(x))))


class ManyLayers(Stack):
    """Twenty Linear layers."""

    def __init__(self, inputs: int, classes: int) -> None:
        layers = [layer for _ in range(18) for layer in (nn.Linear(16, 16), nn.ReLU())]
        super().__init__(nn.Linear(inputs, 16), nn.ReLU(), *layers, nn.Linear(16, classes))


class IntegerInputs(nn.Module):
    """Pixels rounded to integers in forward, and looked up in an embedding."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(8, 2), nn.Linear(2 * inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding((x * 2 + 3).clamp(0, 7).long()).flatten(1))


class Float64(Pair):
    """A network in float64."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class Bfloat16Layer(Pair):
    """A layer in bfloat16 between casts."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.middle = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.middle(torch.relu(self.a(x)).bfloat16())).float())


class Fourier(Pair):
    """A Fourier transform between layers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(torch.fft.fft(self.a(x)).real))


class Checkpointed(Pair):
    """A block that is recomputed in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return self.b(checkpoint(lambda value: torch.relu(self.a(value)), x, use_reentrant=False))


class NoParameters(nn.Module):
    """A network without parameters: the mean over strips of the pixels."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool1d(x.unsqueeze(1), self.classes).squeeze(1)
