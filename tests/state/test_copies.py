"""Networks whose weights are computed before each call are copied like others, and can be made plain."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from quantexp.state.copies import computed_weights, copied, materialized, to_run


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def symmetric(layer: nn.Linear) -> nn.Linear:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def pruned_twice(layer: nn.Linear) -> nn.Linear:
    prune.l1_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(layer, "bias", 0.5)
    return layer


def pruned_direction(layer: nn.Linear) -> nn.Linear:
    return prune.l1_unstructured(weight_norm(layer), "weight_v", 0.5)


def recurrent(layer: nn.Linear) -> nn.Module:
    return weight_norm(nn.LSTM(8, 8, batch_first=True), "weight_hh_l0")


def parametrized_recurrent(layer: nn.Linear) -> nn.Module:
    return parametrizations.weight_norm(nn.LSTM(8, 8, batch_first=True), "weight_hh_l0")


WAYS = [
    weight_norm,
    spectral_norm,
    lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    pruned_twice,
    pruned_direction,
    symmetric,
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    parametrizations.orthogonal,
    recurrent,
    parametrized_recurrent,
]
EVERY = pytest.mark.parametrize("way", WAYS, ids=lambda way: getattr(way, "__name__", "").strip("<>"))
INPUTS = torch.linspace(-1.0, 1.0, 48).view(2, 3, 8)


def network(way: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """A network that has been called with gradients, so that its weight is a result of autograd."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm. is deprecated", category=FutureWarning)
        made = nn.Sequential(nn.Linear(8, 8), way(nn.Linear(8, 8)))
    made(INPUTS)
    return made.eval()


def output(model: nn.Module) -> Tensor:
    result = model(INPUTS)
    tensor: Tensor = result[0] if isinstance(result, tuple) else result
    return tensor.detach()


@EVERY
def test_a_copy_computes_the_same_in_its_own_memory(way: Callable[[nn.Linear], nn.Module]) -> None:
    model = network(way)
    expected = output(model)
    copy = copied(model)
    assert torch.equal(output(copy), expected)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(1.0)
    assert torch.equal(output(model), expected)
    assert not torch.equal(output(copy), expected)


@EVERY
def test_computed_weights_become_parameters_of_a_layer_of_the_same_class(
    way: Callable[[nn.Linear], nn.Module],
) -> None:
    model = network(way)
    expected, state = output(model), {name: value.clone() for name, value in model.state_dict().items()}
    plain = materialized(copied(model))
    assert type(plain[1]) in (nn.Linear, nn.LSTM)
    assert not any(computed_weights(module) for module in plain.modules())
    assert set(plain[1].state_dict()) == set(type(plain[1])(8, 8).state_dict())
    assert set(dict(plain[1].named_parameters())) == set(plain[1].state_dict())
    torch.testing.assert_close(output(plain), expected)
    assert torch.equal(output(model), expected), "the network itself still computes its weights"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@EVERY
def test_a_fresh_network_takes_the_state_of_one_whose_weights_were_made_plain(
    way: Callable[[nn.Linear], nn.Module],
) -> None:
    plain = materialized(network(way))
    fresh = materialized(network(way))
    fresh.load_state_dict({name: 2 * value for name, value in plain.state_dict().items()})
    assert all(torch.equal(value, 2 * plain.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_spectral_norm_is_that_of_evaluation_mode_and_modes_stay() -> None:
    model = network(spectral_norm)
    expected = output(model)
    training = copied(model).train()
    plain = materialized(training)
    assert all(module.training for module in plain.modules())
    torch.testing.assert_close(output(plain.eval()), expected)


def test_a_weight_that_is_shared_with_a_plain_layer_is_not_written_to() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    prune.l1_unstructured(model[1], "weight", 0.5)
    before = model[0].weight.detach().clone()
    materialized(model)
    assert torch.equal(model[0].weight, before)
    assert int((model[1].weight == 0).sum()) == 8


def test_a_network_with_plain_weights_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    parameters = list(model.parameters())
    assert materialized(model) is model
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))


# Copies to run


@EVERY
def test_a_copy_to_run_computes_the_same_with_the_parameters_of_the_original(
    way: Callable[[nn.Linear], nn.Module],
) -> None:
    model = network(way)
    expected = output(model)
    copy = to_run(model)
    assert torch.equal(output(copy), expected)
    places = [{parameter.data_ptr() for parameter in one.parameters()} for one in (model, copy)]
    assert places[0] == places[1]
    assert not {id(parameter) for parameter in copy.parameters()} & {id(parameter) for parameter in model.parameters()}


class Renormed(nn.Module):
    """A network that limits its own weights and counts its calls in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        self.layer.weight.data = torch.renorm(self.layer.weight.data, 2, 0, 0.1)
        self.calls += 1
        result: Tensor = self.layer(inputs)
        return result


@torch.no_grad()
def test_what_a_copy_to_run_assigns_in_a_call_is_not_assigned_in_the_original() -> None:
    model = Renormed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = to_run(model)
    copy(INPUTS)
    assert not torch.equal(copy.layer.weight, before["layer.weight"])
    assert float(copy.calls) == 1.0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_copy_to_run_of_tied_weights_has_them_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    copy = to_run(model)
    assert copy[1].weight is copy[0].weight
