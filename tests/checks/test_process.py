"""Quantizing changes neither the float network nor how the process computes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor
from torch import Tensor, nn
from torch._inductor.fx_passes import post_grad

from quantexp.checks import process
from quantexp.checks.process import unchanged
from quantexp.config import Amp, Dynamic, Engine, Experiment, FakeQuant, Flow, NoQuant, Qat, Quant, Static, WeightOnly
from quantexp.mission import attempt
from quantexp.quant.engine import supported_engines
from quantexp.quant.flows import torchao as flow
from quantexp.system.errors import CheckError

BATCH = (torch.linspace(-1, 1, 4 * 8).view(4, 8),)


class Network(nn.Module):
    """A layer and a normalisation with statistics, in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.noise, self.offset = 0.0, 0.0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x)) + self.noise * torch.rand(8) + self.offset
        return out


def message(change: Callable[[], Any], network: nn.Module | None = None) -> str:
    """What the check says of a change."""
    with pytest.raises(CheckError) as raised, unchanged("quant=planted", network or Network(), BATCH):
        change()
    assert raised.value.check == "process"
    return str(raised.value)


SETTINGS: list[tuple[str, Callable[[Any], Any], Any]] = [
    ("torch.get_float32_matmul_precision()", torch.set_float32_matmul_precision, "high"),
    ("torch.get_default_dtype()", torch.set_default_dtype, torch.float64),
    ("torch.is_grad_enabled()", torch.set_grad_enabled, False),
    ("torch.is_autocast_enabled('cpu')", lambda value: torch.set_autocast_enabled("cpu", value), True),
    (
        "torch.use_deterministic_algorithms()",
        lambda value: torch.use_deterministic_algorithms(*value[:1]),
        (True, False),
    ),
    ("torch.set_flush_denormal()", torch.set_flush_denormal, True),
    ("torch.backends.mha.get_fastpath_enabled()", torch.backends.mha.set_fastpath_enabled, False),
    ("torch.backends.mkldnn.enabled", lambda value: setattr(torch.backends.mkldnn, "enabled", value), False),
    ("torch.backends.cudnn.benchmark", lambda value: setattr(torch.backends.cudnn, "benchmark", value), True),
    ("torch._inductor.config.freezing", lambda value: setattr(inductor, "freezing", value), True),
    (
        "torch._inductor.config.pre_grad_custom_pass",
        lambda value: setattr(inductor, "pre_grad_custom_pass", value),
        print,
    ),
]


@pytest.mark.parametrize(("name", "change", "value"), SETTINGS, ids=[name for name, *_ in SETTINGS])
def test_a_setting_that_was_changed_is_named_and_set_back(name: str, change: Callable[[Any], Any], value: Any) -> None:
    before = process._read()
    assert before[name] != value
    text = message(lambda: change(value))
    assert "quant=planted changed " in text
    assert f"{name} ({before[name]} -> {process._shown(value)})" in text
    assert process._read() == before


@pytest.mark.skipif(len(supported_engines()) < 2, reason="needs two engines")
def test_the_engine_of_the_process_is_one_of_the_settings() -> None:
    before = torch.backends.quantized.engine
    other = next(engine for engine in supported_engines() if engine != before)
    assert f"torch.backends.quantized.engine ({before} -> {other})" in message(
        lambda: setattr(torch.backends.quantized, "engine", other)
    )
    assert torch.backends.quantized.engine == before


def test_settings_are_set_back_if_the_method_fails_too() -> None:
    with pytest.raises(ValueError, match="failed"), unchanged("quant=planted", Network(), BATCH):
        torch.set_float32_matmul_precision("medium")
        raise ValueError("failed")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture
def ready() -> Iterator[None]:
    """The compiler, as it is after its first compilation."""
    post_grad.lazy_init()
    yield


@pytest.mark.usefixtures("ready")
def test_a_pattern_that_was_registered_for_every_network_is_named() -> None:
    patterns = post_grad.pass_patterns[1].patterns
    key = ("call_function", torch.ops.aten.linear.default)
    before = list(patterns.get(key, []))
    try:
        text = message(lambda: patterns.setdefault(key, []).append(object()))  # type: ignore[arg-type]
    finally:
        patterns[key] = before
    assert "the patterns in torch._inductor.fx_passes.post_grad.pass_patterns[1]" in text


def changes_of(network: nn.Module) -> dict[str, Callable[[], Any]]:
    """What a method could do to the float network, by what must be named."""
    layer: Any = network.layer
    return {
        "layer.weight of": lambda: layer.weight.data.mul_(1 + 2**-20),
        "norm.running_mean of": lambda: network.norm.running_mean.add_(1),  # type: ignore[union-attr, operator]
        "the mode of norm of": lambda: network.norm.train(),  # type: ignore[union-attr, operator]
        "the hooks of layer of": lambda: layer.register_forward_hook(lambda *_: None),
        "the class of layer of": lambda: setattr(network, "layer", nn.Sequential(layer)),
        "the outputs of": lambda: setattr(network, "offset", 0.25),
    }


@pytest.mark.parametrize("name", list(changes_of(Network())))
def test_a_change_of_the_float_network_is_named(name: str) -> None:
    network = Network()
    assert name in message(changes_of(network)[name], network)


def test_a_network_that_is_random_is_compared_by_its_state_alone() -> None:
    network = Network()
    network.noise = 1.0
    with unchanged("quant=planted", network, BATCH):
        pass
    assert "layer.bias of" in message(lambda: network.layer.bias.data.zero_(), network)


def test_a_method_in_a_run_that_changes_a_flag_ends_it(
    monkeypatch: pytest.MonkeyPatch, sample: Callable[..., Experiment]
) -> None:
    original = flow.weight_only

    def careless(*arguments: Any) -> nn.Module:
        torch.set_float32_matmul_precision("high")  # as torchao does unless set_inductor_config=False
        return original(*arguments)

    monkeypatch.setattr(flow, "weight_only", careless)
    with pytest.raises(CheckError, match=r"quant=weight_only quant.flow=torchao changed torch.get_float32_matmul_pre"):
        attempt(sample(quant=WeightOnly()))
    assert torch.get_float32_matmul_precision() == "highest"


METHODS: list[tuple[Quant, str]] = [
    (NoQuant(), "bf16"),
    *((Dynamic(flow=flow), "int8") for flow in Dynamic.portable_flows()),
    *((Static(flow=flow), "int8") for flow in (Flow.fx, Flow.eager, Flow.pt2e)),
    (WeightOnly(), "int8"),
    (WeightOnly(), "int4"),
    (FakeQuant(), "simulated"),
    (Amp(), "bf16"),
    (Qat(flow=Flow.fx), "int8"),
]


@pytest.mark.skipif(Engine.x86 not in supported_engines(), reason="needs the engine x86")
@pytest.mark.parametrize(("option", "precision"), METHODS, ids=lambda value: getattr(value, "name", str(value)))
def test_no_method_of_ours_changes_anything(option: Quant, precision: str, sample: Callable[..., Experiment]) -> None:
    attempt(sample(quant=option, precision=precision))


@pytest.mark.slow
def test_importing_the_flow_pt2e_registers_no_pass_for_float_networks() -> None:
    code = (
        "import quantexp.quant.flows.pt2e, quantexp.quant.flows.x86_quantizer, torch._inductor.config as config; "
        "print(config.pre_grad_custom_pass)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
