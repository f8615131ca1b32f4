"""PyTorch as it is: what executes, copied, inspected, for networks of one input and of several."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from quantexp.config import Dynamic, Eager, Engine
from quantexp.models.mlp import MLP
from quantexp.quant.engine import supported_engines
from quantexp.quant.inspection.account import account
from quantexp.quant.inspection.evidence import inspect, operators
from quantexp.quant.inspection.promise import Quantized
from quantexp.runtimes import prepare
from quantexp.runtimes.contestant import Contestant
from quantexp.tasks.inputs import Batch, examples
from tests.networks import made
from tests.tokens import CLASSES, SPECS, Averages

X = torch.linspace(-1.0, 1.0, 12).view(3, 4)
NETWORKS: dict[str, tuple[nn.Module, Batch]] = {
    "one input": (MLP(4, [8], 2).eval(), (X,)),
    "token ids and mask": (Averages(SPECS, CLASSES).eval(), examples(SPECS, 3)),
}


@pytest.mark.parametrize(("network", "batch"), NETWORKS.values(), ids=NETWORKS.keys())
def test_the_network_is_executable_as_it_is_for_batches_of_any_size(network: nn.Module, batch: Batch) -> None:
    prepared = prepare(Eager(), network, batch)
    assert prepared.network is network
    assert (prepared.seconds, prepared.max_difference) == (None, None)
    assert prepared.batch_size is None
    assert prepared.operators() == operators(network, batch)


@pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")  # once a process
@pytest.mark.parametrize("engine", [Engine(name) for name in supported_engines()])
def test_a_copy_is_packed_for_the_engine_of_the_network(engine: Engine) -> None:
    network = made(Dynamic(engine=engine), NETWORKS["one input"][0], "int8", X)
    before = torch.backends.quantized.engine
    with torch.no_grad():
        assert torch.equal(prepare(Eager(), network, (X,), engine).copied()(X), network(X))
    assert torch.backends.quantized.engine == before


def test_a_contestant_is_made_executable_by_its_runtime() -> None:
    network, batch = NETWORKS["token ids and mask"]
    evidence = inspect(Quantized(network, None), operators(network, batch), None, account(network, batch))
    contestant = Contestant(network, "fp32", Eager(), evidence)
    assert contestant.prepared(batch).network is network
    inspected = prepare(Eager(), network, batch)
    assert replace(contestant, inspected=inspected).prepared(tuple(one[:1] for one in batch)) is inspected
