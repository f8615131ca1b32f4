"""Networks that FX traces: what depends on the mode follows it, and nothing that a layer does is lost in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantexp.checks.traced import check_traced
from quantexp.config import Flow, Qat, Static
from quantexp.quant.flows import fx
from quantexp.quant.flows.working import UnquantizableError, working
from quantexp.quant.methods.qat import unrounded
from quantexp.quant.methods.work import Form
from quantexp.state.tensors import fill, flat_state
from quantexp.system.errors import CheckError

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
QAT = Qat(flow=Flow.fx)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with working(QAT.engine):
        yield


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.dropout(torch.relu(self.first(x)), 0.5, self.training)
        logits: Tensor = self.last(hidden)
        return logits


class Doubling(Dropping):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.first(x))
        return 2 * logits if self.training else logits


@torch.no_grad()
def test_a_dropout_that_is_a_function_drops_in_training_only() -> None:
    prepared = fx.prepare_qat(QAT, Dropping().train(), (X,))
    prepared(X)
    fx.freeze_observers(prepared)
    assert not torch.equal(prepared(X), prepared(X))
    prepared.eval()
    assert torch.equal(prepared(X), prepared(X))
    assert not torch.equal(prepared.train()(X), prepared(X))
    converted = fx.convert(prepared, "kernels")
    assert torch.equal(converted(X), converted(X))


def test_what_is_trained_computes_in_evaluation_what_the_network_computes() -> None:
    form = Form("int8", (X,), "kernels")
    for network, traced in ((Dropping().eval(), True), (Doubling().eval(), False)):
        graph = unrounded(QAT, network, form)
        if traced:
            check_traced(network, graph, [(X,)], "")
        else:  # the graph of training doubles its outputs in evaluation too
            with pytest.raises(CheckError, match="the traced graph must compute what the network computes"):
                check_traced(network, graph, [(X,)], "")


def test_a_layer_with_a_hook_is_refused_where_its_hook_would_be_lost() -> None:
    network = Dropping().eval()
    network.first.register_forward_hook(lambda module, inputs, output: 2 * output)
    prepared = fx.prepare_static(Static(flow=Flow.fx), network, (X,))
    fx.calibrate(prepared, [(X,)])
    with pytest.raises(UnquantizableError, match="must not lose what hooks compute, but it replaces first"):
        fx.convert(prepared, "kernels")


def test_the_hook_of_a_module_of_ones_own_is_traced() -> None:
    network = nn.Sequential(Dropping()).eval()
    network[0].register_forward_hook(lambda module, inputs, output: output + 1)
    expected = network(X)
    assert torch.allclose(fx.trace(network, (X,))(X), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_script_is_refused_as_its_weights_would_not_be_stored() -> None:
    network = nn.Sequential(torch.jit.script(nn.Linear(6, 8)), nn.Linear(8, 3)).eval()
    with pytest.raises(UnquantizableError, match="needs modules in Python, 0 is a script"):
        fx.trace(network, (X,))


class Repeated(nn.Module):
    """A matrix for each step of a sequence: twelve times the same 5 x 4 elements, in columns."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.full((4, 5), value).t().expand(12, 5, 4))


def test_a_weight_that_is_repeated_is_stored_once_and_keeps_its_layout() -> None:
    source, target = Repeated(2.0), Repeated(0.0)
    state = flat_state(source)
    assert state["matrix"].shape == (1, 5, 4)
    for stored in (state["matrix"], source.matrix.contiguous()):  # all copies of it, as 0.1.0 stored it
        fill(target, {"matrix": stored})
        assert torch.equal(target.matrix, source.matrix)
        assert target.matrix.stride() == source.matrix.stride() == (0, 1, 5)
