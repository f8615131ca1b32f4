"""Channels that are zero: quantization-aware training stays finite on them, and the network computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from quantexp.config import Device, Flow, Qat, Train
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.dead_channels import SMALL, divisible
from quantexp.quant.flows.working import working
from quantexp.quant.methods.qat import skeleton
from quantexp.quant.methods.work import Form
from quantexp.statistics.sqnr import sqnr_db
from quantexp.tasks.data import Tensors
from quantexp.tasks.objectives.classification import Classification
from quantexp.training.loop import fit


class Block(nn.Module):
    """A convolution with a channel of zeros, and one whose normalisation multiplies two channels by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Linear(64, 3)
        with torch.no_grad():
            for parameter in self.first[0].parameters():
                parameter[0] = 0.0
            self.second[1].weight[:2] = 0.0
            self.last.weight[0] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.second(self.first(x)).flatten(1))
        return logits


@pytest.fixture
def block() -> Block:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Block()


def images() -> Tensors:
    drawn = torch.Generator().manual_seed(1)
    return Tensors(torch.arange(48) % 3, (torch.randn(48, 1, 8, 8, generator=drawn),))


@pytest.mark.parametrize("flow", [Flow.fx, Flow.eager, Flow.pt2e])
def test_quantization_aware_training_stays_finite_where_channels_are_zero(block: Block, flow: Flow) -> None:
    option, data = Qat(flow=flow), images()
    recipe = Train(epochs=2, batch_size=16, device=Device.cpu, threads=1)
    with working(option.engine):
        prepared = flow_of(option).prepare_qat(option, divisible(copy.deepcopy(block)), data.first(2), "kernels")
        record = fit(prepared, data, Classification(3), recipe, seed=0, label="test")
    assert all(
        bool(torch.isfinite(value).all()) for value in prepared.state_dict().values() if value.is_floating_point()
    )
    assert record.losses[-1] < 2.0, "a network that guesses among three has a loss of 1.1"


@pytest.mark.slow
@pytest.mark.parametrize("flow", [Flow.fx, Flow.eager, Flow.pt2e])
def test_the_converted_network_computes_what_the_float_network_computes(block: Block, flow: Flow) -> None:
    batch = images().first(16)
    with torch.no_grad():
        expected = block.eval()(*batch)
        quantized = skeleton(Qat(flow=flow), copy.deepcopy(block), Form("int8", batch))(*batch)
    assert sqnr_db(expected, quantized) > 20


def test_only_scales_of_zero_change_and_not_in_the_network_of_the_user(block: Block) -> None:
    before = copy.deepcopy(block.state_dict())
    after = divisible(copy.deepcopy(block)).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"second.1.weight"}
    assert after["second.1.weight"].tolist() == [pytest.approx(SMALL), pytest.approx(SMALL), 1.0, 1.0]
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
