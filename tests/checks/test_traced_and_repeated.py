"""A traced graph must compute what the network computes; two calls must agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from quantexp.checks.repeated import check_float, check_quantized, difference
from quantexp.checks.traced import batches, check_traced
from quantexp.system.errors import CheckError
from quantexp.tasks.inputs import Batch

POINTS = torch.linspace(-2.0, 2.0, 8 * 12).view(8, 12)


def of_sizes(*sizes: int) -> list[Batch]:
    return list(batches([(POINTS[:count],) for count in sizes]))


class Branches(nn.Module):
    """A network that does something else for large batches; the size of the batch is a constant for the tracer."""

    def __init__(self, condition: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.condition = condition

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if self.condition(x) else self.layer(x) * 2


class Traced(nn.Module):
    """What a tracer makes of a network: the branch of one input."""

    def __init__(self, network: Branches) -> None:
        super().__init__()
        self.layer = network.layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize(
    "condition",
    [lambda x: len(x) < 2, lambda x: len(x) < 8, lambda x: float(x.detach().min()) > -2.1],
    ids=["size", "measured", "values"],
)
def test_control_flow_that_tracing_loses_is_found(condition: Callable[[Tensor], bool]) -> None:
    network = Branches(condition).eval()
    with pytest.raises(CheckError, match="the traced graph must compute what the network computes") as told:
        check_traced(network, Traced(network), of_sizes(1, 2, 8))
    assert told.value.check == "traced"


def test_a_hook_that_tracing_loses_is_found() -> None:
    network = nn.Sequential(nn.Linear(12, 3), nn.ReLU()).eval()
    graph = fx.symbolic_trace(network)
    check_traced(network, graph, of_sizes(1, 2))
    network.register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(CheckError, match="a hook"):
        check_traced(network, graph, of_sizes(1, 2))


def test_a_graph_that_fails_with_another_batch_size_is_an_error_with_the_size() -> None:
    class Fixed(nn.Module):
        """A network whose trace has the size of the batch in it."""

        def forward(self, x: Tensor) -> Tensor:
            return x.view(2, 12)

    with pytest.raises(CheckError, match=r"with batch size 1\), but it fails \(RuntimeError"):
        check_traced(nn.Identity(), Fixed(), of_sizes(1, 2))


def test_each_batch_is_followed_by_other_values_of_the_same_type() -> None:
    tokens = torch.arange(8).view(8, 1)
    found = list(batches([(POINTS[:4], tokens[:4]), (POINTS, tokens)]))
    assert [len(points) for points, _ in found] == [4, 4, 8, 8]
    assert torch.equal(found[1][0], POINTS[:4] * -1.5 + 0.25)
    assert torch.equal(found[1][1], tokens[:4]), "token ids stay in the vocabulary"


def test_dropout_left_on_is_a_finding_of_the_float_network_and_an_error_of_a_quantized_one() -> None:
    class Stays(nn.Module):
        """Dropout that knows no evaluation mode."""

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x)

    random, steady = difference(Stays(), (POINTS,)), difference(nn.Identity(), (POINTS,))
    assert (steady, check_float(steady)) == (0.0, ())
    (finding,) = check_float(random)
    assert finding.check == "repeated"
    assert "random in evaluation mode" in finding.text
    check_quantized(random, random)
    with pytest.raises(CheckError, match="two calls of the quantized network on the same inputs must agree"):
        check_quantized(random, steady)
