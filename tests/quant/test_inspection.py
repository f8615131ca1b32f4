from __future__ import annotations

import copy
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    QConfigMapping,
    default_dynamic_qconfig,
    get_default_qconfig_mapping,
    quantize_dynamic,
)
from torch.ao.quantization.quantize_fx import convert_fx, convert_to_reference_fx, prepare_fx

from quantexp.benchmark.size import parameter_count
from quantexp.config import METHODS, Dynamic, Engine, FakeQuant, Granularity, NoQuant, Qat, Quant, Static, WeightOnly
from quantexp.models.mlp import MLP
from quantexp.quant.engine import supported_engines, use_engine
from quantexp.quant.flows.working import working
from quantexp.quant.inspection.account import account
from quantexp.quant.inspection.evidence import profile
from quantexp.quant.inspection.promise import Promise
from quantexp.quant.methods.casting import Autocast, Cast
from quantexp.quant.selection import kept_in_float
from quantexp.results import Account, Evidence, Layer, LeftInFloat, Operator
from quantexp.system.errors import QuantizationError
from tests.networks import inspected, made

ENGINES = [Engine(name) for name in supported_engines()]
ENGINE = next(engine for engine in Engine if engine in ENGINES)
EXAMPLE = torch.linspace(-1.0, 1.0, 8).view(2, 4)
MACS = 4 * 3 + 3 * 5 + 5 * 2  # of the network below, on one example
PAIRS = [
    (method, precision)
    for method in METHODS
    for precision in method.precisions
    if method not in (WeightOnly, FakeQuant)
]
INT8 = [Dynamic(engine=ENGINE), *(cls(engine=ENGINE, weights=kind) for cls in (Static, Qat) for kind in Granularity)]


def of_pair(value: object) -> str:
    return value.name if isinstance(value, type) and issubclass(value, Quant) else str(value)


def of_option(option: Quant) -> str:
    return f"{option.name} {getattr(option, 'weights', '')}".strip()


@pytest.fixture
def network() -> nn.Module:
    """Four inputs, hidden layers of three and five, two classes."""
    return MLP(4, [3, 5], 2).eval()


def dynamically(model: nn.Module, *names: str) -> nn.Module:
    """Return a copy with the named layers dynamically quantized to int8."""
    with working(ENGINE):
        quantized: nn.Module = quantize_dynamic(copy.deepcopy(model), dict.fromkeys(names, default_dynamic_qconfig))
    return quantized


def lowered(option: Quant, model: nn.Module, precision: str = "int8", example: Tensor = EXAMPLE) -> Evidence:
    """Quantize a copy of the model, its ranges those of `example`, and look at what is left and at what runs."""
    quantized = made(option, model, precision, example)
    promise = Promise("what it handles", operators=precision) if precision != "fp32" else None
    return inspected(quantized, example, promise=promise, engine=option.packs_for)


def observed(model: nn.Module, mapping: QConfigMapping) -> nn.Module:
    """Return a copy with observers where the mapping says so, that have seen the example."""
    prepared: nn.Module = prepare_fx(copy.deepcopy(model), mapping, (EXAMPLE,))
    prepared(EXAMPLE)
    return prepared


# Promises


def test_a_promise_of_layers_that_is_not_kept_says_what_was_promised_found_and_handled(network: nn.Module) -> None:
    with pytest.raises(QuantizationError) as failure:
        inspected(network, EXAMPLE, promise=Promise("nn.Linear and nothing else", layers="int8"))
    assert str(failure.value) == (
        "the quantized network must have int8 layers, it has fp32; "
        "the method handles nn.Linear and nothing else: use a model that has them"
    )


def test_a_promise_of_operators_that_is_not_kept_says_what_was_promised_ran_and_is_handled(network: nn.Module) -> None:
    with pytest.raises(QuantizationError) as failure:
        inspected(network, EXAMPLE, promise=Promise("what autocast lowers", operators="bf16"))
    assert str(failure.value) == (
        "the quantized network must run bf16 operators, it ran fp32; "
        "the method handles what autocast lowers: use a model that has them"
    )


def test_a_model_without_layers_keeps_no_promise() -> None:
    promise = Promise("nn.Linear", layers="int8")
    with pytest.raises(QuantizationError, match="must have int8 layers, it has none"):
        inspected(nn.ReLU(), EXAMPLE, promise=promise)
    with pytest.raises(QuantizationError, match="must run int8 operators, it ran none"):
        inspected(nn.ReLU(), EXAMPLE, promise=Promise("nn.Linear", operators="int8"))


def test_weights_in_another_precision_do_not_keep_a_promise(network: nn.Module) -> None:
    with pytest.raises(QuantizationError, match="must have fp16 layers, it has bf16"):
        inspected(Cast(network, torch.bfloat16), EXAMPLE, promise=Promise("all", layers="fp16"))


def test_layers_that_are_quantized_but_never_run_do_not_keep_a_promise_of_operators(network: nn.Module) -> None:
    class Bypassed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = dynamically(network, "layers.0", "layers.2", "layers.4")
            self.used = network

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.used(x)
            return logits

    with pytest.raises(QuantizationError, match="must run int8 operators, it ran fp32"):
        inspected(Bypassed(), EXAMPLE, promise=Promise("nn.Linear", "int8", "int8"))


def test_without_a_promise_the_float_model_passes(network: nn.Module) -> None:
    evidence = inspected(network, EXAMPLE)
    assert [layer.precision for layer in evidence.layers] == ["fp32"] * 3
    assert evidence.left_in_float == ()


class Multiplies(nn.Module):
    """A product with a parameter that is no layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table


class Pairs(nn.Module):
    """A layer that no method has kernels for."""

    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(4, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.bilinear(x, x)
        return logits


@pytest.mark.parametrize("model", [Pairs(), Multiplies()], ids=["bilinear", "product"])
@pytest.mark.parametrize("option", INT8, ids=of_option)
def test_a_network_of_layers_that_a_method_does_not_handle_is_an_error(option: Quant, model: nn.Module) -> None:
    quantized = made(option, copy.deepcopy(model).eval(), "int8", EXAMPLE)
    with pytest.raises(
        QuantizationError, match=r"must have int8 layers, it has (fp32|none); the method handles some layers"
    ):
        inspected(quantized, EXAMPLE, promise=Promise("some layers", "int8", "int8"), engine=ENGINE)


def test_a_method_that_was_pointed_at_no_layer_is_an_error(network: nn.Module) -> None:
    promise = Promise("nn.Linear", "int8", "int8")
    with working(ENGINE):
        converted = convert_fx(observed(network, QConfigMapping()))
    for model in (dynamically(network, "layers.1", "no.such.layer"), converted):
        with pytest.raises(QuantizationError, match="must have int8 layers, it has fp32"):
            inspected(model, EXAMPLE, promise=promise, engine=ENGINE)


def test_a_model_that_only_pretends_to_compute_in_int8_is_an_error(network: nn.Module) -> None:
    # Observers alone, and float layers between the conversions to int8 and back: both give the numbers of a quantized
    # model, or near them, at the speed of the float one.
    with working(ENGINE):
        prepared = observed(network, get_default_qconfig_mapping(ENGINE.value))
        dequantized = convert_to_reference_fx(copy.deepcopy(prepared))
    assert not torch.equal(dequantized(EXAMPLE), network(EXAMPLE))
    for model in (prepared, dequantized):
        with pytest.raises(QuantizationError, match="must have int8 layers, it has fp32"):
            inspected(model, EXAMPLE, promise=Promise("what FX lowers", "int8", "int8"), engine=ENGINE)
        with pytest.raises(QuantizationError, match="must run int8 operators, it ran fp32"):
            inspected(model, EXAMPLE, promise=Promise("what FX lowers", operators="int8"), engine=ENGINE)


# Evidence


def test_the_float_network_shows_its_layers_and_the_operators_that_multiply(network: nn.Module) -> None:
    assert inspected(network, EXAMPLE) == Evidence(
        layers=tuple(Layer(f"layers.{index}", "Linear", "fp32", 32) for index in (0, 2, 4)),
        operators=(Operator("aten.addmm", "fp32", 3, MACS),),
        left_in_float=(),
        account=Account(MACS),
    )


def test_autocast_shows_float32_layers_and_operators_in_less(network: nn.Module) -> None:
    evidence = inspected(Autocast(network, torch.bfloat16), EXAMPLE, promise=Promise("some", operators="bf16"))
    assert {layer.precision for layer in evidence.layers} == {"fp32"}
    assert evidence.operators == (Operator("aten.addmm", "bf16", 3, MACS),)
    assert evidence.left_in_float == (), "of layers nothing was promised"


def test_layers_that_were_left_in_float_are_listed(network: nn.Module) -> None:
    part = dynamically(network, "layers.2")
    evidence = inspected(part, EXAMPLE, promise=Promise("nn.Linear", "int8", "int8"))
    assert {layer.name: layer.precision for layer in evidence.layers} == {
        "layers.0": "fp32",
        "layers.2": "int8",
        "layers.4": "fp32",
    }
    reason = "not quantized, although the method handles nn.Linear"
    assert evidence.left_in_float == (LeftInFloat("layers.0", reason), LeftInFloat("layers.4", reason))
    calls = {operator.precision: operator.calls for operator in evidence.operators}
    assert calls == {"fp32": 2, "int8": 1}


def test_what_the_layers_hold_is_told_in_singular_and_plural(
    network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="quantexp"):
        inspected(dynamically(network, "layers.2"), EXAMPLE, promise=Promise("nn.Linear", "int8", "int8"))
    assert "inspect   2 fp32 layers, 1 int8 layer; ran " in caplog.text


def test_a_layer_left_in_float_is_said_with_its_kind_and_what_the_method_handles(
    network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pairs = nn.Bilinear(4, 4, 4)
            self.rest = copy.deepcopy(network)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.rest(self.pairs(x, x))
            return logits

    quantized = made(Dynamic(engine=ENGINE), Mixed().eval(), "int8", EXAMPLE)
    evidence = inspected(quantized, EXAMPLE, promise=Promise("nn.Linear", "int8", "int8"), engine=ENGINE)
    reason = "the method handles nn.Linear, not Bilinear"
    assert evidence.left_in_float == (LeftInFloat("pairs", reason),)
    assert [one.getMessage() for one in caplog.records] == [f"left in float: pairs ({reason})"]


def test_a_layer_that_the_user_keeps_in_float_is_no_warning(
    network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    option = Dynamic(engine=ENGINE, exclude=["layers.0"])
    promise = Promise("nn.Linear", "int8", "int8", kept=kept_in_float(option, network))
    evidence = inspected(made(option, network, "int8", EXAMPLE), EXAMPLE, promise=promise, engine=ENGINE)
    assert evidence.left_in_float == (LeftInFloat("layers.0", "quant.exclude=[layers.0] includes it"),)
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == []


SCHEMES = {
    "dynamic None": "per_tensor_affine",
    "static per_channel": "per_channel_affine",
    "static per_tensor": "per_tensor_affine",
    "qat per_channel": "per_channel_affine",
    "qat per_tensor": "per_tensor_affine",
}


@pytest.mark.parametrize("option", INT8, ids=of_option)
def test_a_layer_in_int8_tells_its_bits_its_scheme_and_its_engine(network: nn.Module, option: Quant) -> None:
    layers = lowered(option, network).layers
    assert [layer.name for layer in layers] == ["layers.0", "layers.2", "layers.4"]
    assert {(layer.precision, layer.bits) for layer in layers} == {("int8", 8)}
    assert {(layer.qscheme, layer.engine) for layer in layers} == {(SCHEMES[of_option(option)], ENGINE.value)}


@pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")  # once a process
@pytest.mark.filterwarnings("ignore:Default qconfig of oneDNN backend:UserWarning")  # on CPUs without VNNI
@pytest.mark.parametrize("engine", ENGINES)
def test_a_layer_tells_the_engine_that_its_weights_are_packed_for(network: nn.Module, engine: Engine) -> None:
    with use_engine(engine):
        layers = lowered(Static(engine=engine), network).layers
    assert {layer.engine for layer in layers} == {engine.value}


@pytest.mark.parametrize(
    ("option", "precision", "bits"), [(NoQuant(), "fp32", 32), (NoQuant(), "bf16", 16), (Dynamic(), "fp16", 16)]
)
def test_a_layer_that_is_held_in_a_float_has_bits_but_neither_scheme_nor_engine(
    network: nn.Module, option: Quant, precision: str, bits: int
) -> None:
    layers = lowered(option, network, precision).layers
    assert [(one.precision, one.bits, one.qscheme, one.engine) for one in layers] == [(precision, bits, None, None)] * 3


# Multiply-accumulates


@pytest.mark.parametrize("hidden", [[], [3, 5], [64, 16, 8]], ids=str)
def test_the_float_operations_of_an_mlp_are_two_for_each_weight(hidden: list[int]) -> None:
    model = MLP(20, hidden, 10).eval()
    macs = sum(inputs * outputs for inputs, outputs in pairwise([20, *hidden, 10]))
    for examples in (1, 2, 7):  # of one example, whatever the batch
        assert account(model, (torch.ones(examples, 20),)).flops == 2 * macs
        evidence = inspected(model, torch.ones(examples, 20))
        assert sum(operator.macs for operator in evidence.operators) == macs


@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_every_method_multiplies_as_often_as_the_float_network_and_all_of_it_in_its_precision(
    network: nn.Module, method: type[Quant], precision: str
) -> None:
    evidence = lowered(method(), network, precision)
    assert sum(operator.macs for operator in evidence.operators) == MACS
    assert sum(operator.calls for operator in evidence.operators) == 3
    assert evidence.mac_share(precision) == 1.0
    assert account(network, (EXAMPLE,)).flops == 2 * MACS


@pytest.mark.parametrize("option", INT8, ids=of_option)
def test_the_share_of_int8_is_one_for_a_network_that_is_quantized_as_a_whole(network: nn.Module, option: Quant) -> None:
    evidence = lowered(option, network)
    assert evidence.mac_share("int8") == 1.0
    assert evidence.mac_share("fp32") == evidence.mac_share("bf16") == 0.0


@pytest.mark.parametrize(
    ("names", "macs"), [(["layers.0"], 4 * 3), (["layers.2"], 3 * 5), (["layers.0", "layers.4"], 4 * 3 + 5 * 2)]
)
def test_the_share_of_int8_is_that_of_the_layers_that_are_quantized(
    network: nn.Module, names: list[str], macs: int
) -> None:
    evidence = inspected(dynamically(network, *names), EXAMPLE, promise=Promise("nn.Linear", "int8", "int8"))
    assert evidence.mac_share("int8") == macs / MACS
    assert evidence.mac_share("fp32") == pytest.approx(1 - macs / MACS)


def test_a_network_that_never_multiplies_has_a_share_of_nothing() -> None:
    evidence = inspected(nn.Sequential(nn.ReLU()), EXAMPLE)
    assert evidence.operators == ()
    assert evidence.mac_share("fp32") == 0.0


IMAGES = torch.linspace(-1.0, 1.0, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
CONVOLUTIONS = (3 * 3 * 3) * 4 * 8 * 8 + (2 * 3 * 3) * 6 * 3 * 3  # weights of a value, channels, height, width
LINEAR = 6 * 3 * 3 * 5


@pytest.fixture
def images_network() -> nn.Module:
    """A convolution that keeps the size, one in two groups that halves it, and a linear layer behind them."""
    first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, groups=2)
    return nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), nn.Linear(6 * 3 * 3, 5)).eval()


def test_convolutions_are_layers_and_operators_too(images_network: nn.Module) -> None:
    evidence = inspected(images_network, IMAGES)
    assert [(layer.name, layer.kind) for layer in evidence.layers] == [
        ("0", "Conv2d"),
        ("2", "Conv2d"),
        ("4", "Linear"),
    ]
    assert evidence.operators == (
        Operator("aten.convolution", "fp32", 2, CONVOLUTIONS),
        Operator("aten.addmm", "fp32", 1, LINEAR),
    )
    assert account(images_network, (IMAGES,)).flops == 2 * (CONVOLUTIONS + LINEAR)


@pytest.mark.parametrize("weights", Granularity)
def test_convolutions_in_int8_multiply_as_often(images_network: nn.Module, weights: Granularity) -> None:
    evidence = lowered(Static(engine=ENGINE, weights=weights), images_network, example=IMAGES)
    convolutions = [one for one in evidence.operators if one.name.startswith("quantized.conv2d")]
    assert sum(one.macs for one in convolutions) == CONVOLUTIONS
    assert sum(one.macs for one in evidence.operators) == CONVOLUTIONS + LINEAR
    assert evidence.mac_share("int8") == 1.0
    assert {(layer.bits, layer.qscheme) for layer in evidence.layers} == {(8, f"{weights.value}_affine")}


def test_where_only_the_linear_layer_is_quantized_its_share_is_told(images_network: nn.Module) -> None:
    evidence = lowered(Dynamic(engine=ENGINE), images_network, example=IMAGES)
    assert evidence.mac_share("int8") == LINEAR / (CONVOLUTIONS + LINEAR)


def test_products_without_a_layer_are_counted_too() -> None:
    class Attends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sequence = x.view(len(x), 2, 2)
            return torch.bmm(sequence, sequence)  # two rows by two columns, two products each

    assert inspected(Attends(), EXAMPLE).operators == (Operator("aten.bmm", "fp32", 1, 2 * 2 * 2),)
    assert inspected(Multiplies(), EXAMPLE).operators == (Operator("aten.mm", "fp32", 1, 4 * 2),)


# Where the time goes


@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_a_profile_names_operators_of_torch_and_the_greatest_share_of_the_time_first(
    network: nn.Module, method: type[Quant], precision: str
) -> None:
    option = method()
    model = made(option, network, precision, EXAMPLE)
    found = profile(model, (EXAMPLE,))
    assert found.batch_size == 2
    shares = [one.share for one in found.shares]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-9
    assert sum(shares) > 0.8, "only operators of less than a two hundredth are left out"
    known = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    assert {one.operator for one in found.shares} <= known
    multiplied = {one.operator for one in found.shares if one.operator.split("::")[1].startswith(("addmm", "linear"))}
    ran = {one.name.replace(".", "::") for one in inspected(model, EXAMPLE).operators}
    assert ran <= multiplied


def test_a_profile_writes_nothing_on_the_screen() -> None:
    code = (
        "import torch; from quantexp.quant.inspection.evidence import profile;"
        "profile(torch.nn.Linear(4, 2), (torch.ones(2, 4),))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_counting_tracing_and_checking_do_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from quantexp.checks.arithmetic import compare; from quantexp.quant.flows.fx import trace;"
        "from quantexp.quant.inspection.account import account;"
        "model, batch = torch.nn.Linear(4, 2), (torch.ones(2, 4),);"
        "account(model, batch); trace(model, batch); compare(model, batch); assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# Left as it was


def test_looking_at_a_model_does_not_change_it(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    inspected(network, EXAMPLE)
    account(network, (EXAMPLE,))
    profile(network, (EXAMPLE,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


# Parameters


def test_parameters_are_counted_whether_they_are_packed_or_not(network: nn.Module) -> None:
    expected = (4 + 1) * 3 + (3 + 1) * 5 + (5 + 1) * 2  # 47
    assert parameter_count(network) == expected
    assert parameter_count(dynamically(network, "layers.2")) == expected
    assert parameter_count(dynamically(network, "layers.0", "layers.2", "layers.4")) == expected
    assert parameter_count(Cast(copy.deepcopy(network), torch.bfloat16)) == expected
