"""Large weights share memory while a network is built to be filled, and are its own when it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from quantexp.state.scratch import LARGE, Scratch

SIDE = 1024  # LARGE is its square
assert SIDE * SIDE == LARGE


def memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_large_weights_share_memory_until_they_are_settled_and_small_ones_never_do() -> None:
    with Scratch() as scratch:
        network = nn.Sequential(nn.Linear(SIDE, SIDE), nn.Linear(SIDE, SIDE), nn.Linear(SIDE, 8))
    first, second, small = network[0].weight, network[1].weight, network[2].weight
    assert memory(first) == memory(second) != memory(small)
    assert scratch.lent
    assert 0 < first.std() < 1, "each layer still draws its weights"
    scratch.settle(network)
    assert network[0].weight is first
    assert len({memory(first), memory(second), memory(small)}) == 3
    assert memory(nn.Linear(SIDE, SIDE).weight) != memory(nn.Linear(SIDE, SIDE).weight), "only within the context"


def test_a_tied_weight_stays_one_parameter() -> None:
    tied = nn.Parameter(torch.zeros(SIDE, SIDE))
    with Scratch() as scratch:
        network = nn.Sequential(nn.Embedding(SIDE, SIDE), nn.Linear(SIDE, SIDE), nn.Linear(SIDE, SIDE))
        network[1].weight = network[0].weight
        network[0].weight = network[1].weight = tied
        network[2].weight = network[1].weight
    scratch.settle(network)
    assert network[0].weight is network[1].weight is network[2].weight
    assert len(list(network.parameters())) == 3  # with two biases


def test_the_list_of_weights_of_a_recurrent_layer_holds_those_that_are_filled() -> None:
    with Scratch() as scratch:
        layer = nn.LSTM(SIDE, SIDE, batch_first=True).eval()
    scratch.settle(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert layer(torch.ones(1, 2, SIDE))[0].abs().max() == 0


def test_other_tensors_in_shared_memory_get_their_own_too() -> None:
    with Scratch() as scratch:
        layer = nn.Linear(SIDE, SIDE)
        layer.view = layer.weight.detach()
        layer.register_buffer("kept", layer.weight.detach())
    scratch.settle(layer)
    assert len({memory(layer.weight), memory(layer.view), memory(layer.kept)}) == 3


def test_a_network_that_another_thread_builds_meanwhile_has_memory_of_its_own() -> None:
    with Scratch() as scratch, ThreadPoolExecutor(1) as other:
        network = other.submit(lambda: nn.Sequential(nn.Linear(SIDE, SIDE), nn.Linear(SIDE, SIDE))).result()
    assert memory(network[0].weight) != memory(network[1].weight)
    assert not scratch.lent


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_part_that_is_a_script_gets_its_own_memory_too() -> None:
    with Scratch() as scratch:
        network = nn.Sequential(torch.jit.script(nn.Linear(SIDE, SIDE)), nn.Linear(SIDE, SIDE))
    assert memory(network[0].weight) == memory(network[1].weight)
    scratch.settle(network)
    assert memory(network[0].weight) != memory(network[1].weight)


def test_a_weight_in_another_order_keeps_it() -> None:
    with Scratch() as scratch:
        layer = nn.Linear(SIDE, SIDE)
        layer.weight = nn.Parameter(torch.zeros(SIDE, 2 * SIDE).T)
    scratch.settle(layer)
    assert layer.weight.stride() == (1, 2 * SIDE)
