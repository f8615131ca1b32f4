"""Graphs of PT2E in training: the numbers of the network stay, and what was trained is what is converted."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.checks.kernels import check_converted
from quantexp.config import Flow, Qat
from quantexp.quant.flows import pt2e
from quantexp.quant.flows.exported import Exported
from quantexp.statistics.sqnr import compared
from quantexp.system.errors import CheckError

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and torchao about their own deprecations

aten = torch.ops.aten
IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 4


def network(eps: float = 1e-3, momentum: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    normed = nn.BatchNorm2d(8, eps=eps, momentum=momentum)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), normed, nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


def prepared(model: nn.Module) -> Exported:
    made = pt2e.prepare_qat(Qat(flow=Flow.pt2e), model, (IMAGES[:2],), "kernels")
    assert isinstance(made, Exported)
    return made


def arguments(made: Exported, target: Any) -> tuple[Any, ...]:
    (found,) = [node.args for node in made.model.graph.nodes if node.target is target]
    return tuple(found)


def test_switching_to_evaluation_and_back_keeps_the_numbers_of_dropout_and_batch_normalisation() -> None:
    made = prepared(network())
    for training in (True, False, True):
        made.train(training)
        assert arguments(made, aten.dropout.default)[1:] == (0.2, training)
        assert arguments(made, aten.batch_norm.default)[5:8] == (training, 0.3, 1e-3)


def test_running_statistics_follow_the_momentum_of_the_network() -> None:
    model = network(momentum=0.3)
    made = prepared(model)
    made(IMAGES)
    (name,) = (name for name, _ in made.model.named_buffers() if name.endswith("running_mean"))
    with torch.no_grad():
        mean = model[0](IMAGES).mean((0, 2, 3))  # type: ignore[index,operator]
    # Fake quant moves each weight by up to half a step of 1/127 of its channel's largest.
    assert torch.allclose(made.model.get_buffer(name), 0.3 * mean, atol=0.3 * 0.02)


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.5])
def test_what_was_trained_is_what_is_converted_whatever_eps_is(eps: float) -> None:
    made = prepared(network(eps))
    for _ in range(5):
        made(IMAGES)
    pt2e.freeze_observers(made.eval())
    with torch.no_grad():
        expected = made(IMAGES)
        converted = pt2e.convert(made, "kernels")
        assert compared(expected, converted(IMAGES))[1] > 25
    check_converted(converted, (IMAGES,), expected)


def test_a_converted_network_that_computes_something_else_is_an_error() -> None:
    expected = network().eval()(IMAGES).detach()
    off = expected + expected.norm() / math.sqrt(expected.numel())  # as much error as signal: 0 dB
    with pytest.raises(CheckError, match=r"must compute what was trained with fake quant .* it has 0\.0 dB"):
        check_converted(nn.Identity(), (off,), expected)


def test_patterns_are_exported_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> Tensor:
        output: Tensor = pt2e.convert(prepared(network()), "kernels")(IMAGES)
        return output

    first, exported = made(), []
    export = torch.export.export
    monkeypatch.setattr(
        torch.export, "export", lambda *args, **kwargs: exported.append(args) or export(*args, **kwargs)
    )
    assert torch.equal(made(), first)
    assert len(exported) <= 2  # the network, and its quantized form to be lowered
