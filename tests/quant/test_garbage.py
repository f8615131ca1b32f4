"""A flow keeps nothing of the float network that it was given."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from quantexp.config import ByLayer, Dynamic, Flow, Qat, Static
from quantexp.models.mlp import MLP
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.work import Form

EXAMPLE = (torch.linspace(-1.0, 1.0, 60).view(2, 30),)


@pytest.mark.parametrize("flow", [Flow.fx, Flow.eager])
@pytest.mark.parametrize("method", [Static, Dynamic, Qat])
def test_the_float_weights_are_freed_when_a_network_was_quantized(method: type[ByLayer], flow: Flow) -> None:
    network = MLP(30, [16, 16], 4).eval()
    weights = [weakref.ref(parameter) for parameter in network.parameters() if parameter.dim() > 1]
    quantized = skeleton(method(flow=flow), network, Form("int8", EXAMPLE))
    del network
    gc.collect()
    assert [weight() for weight in weights] == [None] * len(weights)
    assert quantized(*EXAMPLE).shape == (2, 4)
