"""Networks that FX traces: what depends on the mode follows it, and nothing that a layer does is lost in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import dynamic as quantized_dynamic
from torch.nn import functional

from quantexp.checks.traced import check_traced
from quantexp.config import Dynamic, Flow, Qat, Static
from quantexp.quant.flows import eager, fx
from quantexp.quant.flows.working import UnquantizableError, working
from quantexp.quant.methods import qat
from quantexp.quant.methods.qat import unrounded
from quantexp.quant.methods.work import Form
from quantexp.state.tensors import fill, flat_state
from quantexp.statistics.sqnr import compared
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
    prepared = fx.prepare_qat(QAT, Dropping().train(), (X,), "kernels")
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
            check_traced(network, graph, [(X,)])
        else:  # the graph of training doubles its outputs in evaluation too
            with pytest.raises(CheckError, match="the traced graph must compute what the network computes"):
                check_traced(network, graph, [(X,)])


def test_a_layer_with_a_hook_is_refused_where_its_hook_would_be_lost() -> None:
    network = Dropping().eval()
    network.first.register_forward_hook(lambda module, inputs, output: 2 * output)
    prepared = fx.prepare_static(Static(flow=Flow.fx), network, (X,), "kernels")
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


@torch.no_grad()
def test_prelu_is_refused_by_fx_and_stays_in_float_in_eager() -> None:
    """torch's int8 kernel of PReLU multiplies positive values too."""
    network = nn.Sequential(nn.Linear(6, 8), nn.PReLU(), nn.Linear(8, 3)).eval()
    with pytest.raises(UnquantizableError, match="int8 kernel multiplies positive values too; the network has 1"):
        fx.prepare_static(Static(flow=Flow.fx), network, (X,), "kernels")
    expected = network(X)
    prepared = eager.prepare_static(Static(flow=Flow.eager), network, (X,), "kernels")
    eager.calibrate(prepared, [(X,)])
    converted = eager.convert(prepared, "kernels")
    assert type(converted.model[1]) is nn.PReLU
    assert compared(expected, converted(X))[1] > 25


@torch.no_grad()
def test_recurrent_layers_with_dropout_between_them_are_quantized_dynamically() -> None:
    network = nn.Sequential(nn.LSTM(6, 8, 2, dropout=0.5, batch_first=True)).eval()
    steps = X.reshape(4, 4, 6)
    expected, _ = network(steps)
    quantized = eager.dynamic(Dynamic(flow=Flow.eager), network, "int8", (steps,), "kernels")
    found, _ = quantized(steps)
    assert isinstance(quantized[0], quantized_dynamic.LSTM)
    assert torch.equal(found, quantized(steps)[0])
    assert compared(expected, found)[1] > 25


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("flow", [Flow.fx, Flow.eager, Flow.pt2e])
def test_qat_takes_normalisation_without_a_scale(flow: Flow) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(16, 3)).eval()
    images = X.reshape(6, 1, 4, 4)
    option, form = Qat(flow=flow), Form("int8", (images,), "kernels")
    expected = network(images)
    assert compared(expected, qat.skeleton(option, network, form)(images))[1] > 15
