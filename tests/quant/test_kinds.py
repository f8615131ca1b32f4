"""Kinds of networks that are easily quantized wrongly, in silence: each has its right result, or a clear refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.benchmark.size import parameter_count
from quantexp.config import (
    CustomModel,
    DataSource,
    Dynamic,
    Engine,
    Experiment,
    FakeQuant,
    Flow,
    Mnist,
    NoQuant,
    Qat,
    Quant,
    Scheme,
    Static,
    Train,
)
from quantexp.mission import Attempt, attempt, load
from quantexp.quant.engine import supported_engines
from quantexp.quant.inspection.account import account
from quantexp.system.errors import CheckError, QuantexpError, QuantizationError
from quantexp.tasks.inputs import Batch
from quantexp.training.baseline import trained
from tests.conformance.networks import (
    activations,
    attention,
    blocks,
    convolutions,
    norms,
    recurrent,
    structure,
    weights,
)
from tests.networks import loaded_again, predictions
from tests.runs import quantized

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch about the networks, which stand for those of users

SIDE, CLASSES = 16, 10
EXAMPLES = 64  # for calibration
OLD_FLOWS = (Flow.fx, Flow.eager)
WITHOUT = {Flow.eager: (activations.Softmax,), Flow.fx: (activations.Prelu, activations.ConvPrelu)}  # no int8 module
Asked = Callable[..., Experiment]


@pytest.fixture
def asked(cache: Path) -> Asked:
    """Build an experiment: a network on small random images or, if the method trains or `data` says so, on digits."""

    def build(network: type[nn.Module], quant: Quant, **parts: Any) -> Experiment:
        data = DataSource.sample if quant.trains else DataSource.synthetic
        settings: dict[str, Any] = {
            "task": Mnist(crop=SIDE),
            "model": CustomModel(target=f"{network.__module__}.{network.__name__}"),
            "data": data,
            "train": Train(epochs=1, batch_size=200, threads=1),
            "batch_size": [1, 8],
            "cache_dir": str(cache),
        }
        return Experiment(quant=quant, **(settings | parts))

    return build


def static(flow: Flow, **settings: Any) -> Static:
    return Static(flow=flow, calibration_examples=EXAMPLES, **settings)


def refusal(experiment: Experiment) -> str | None:
    """The message of a refusal; None if the network is quantized and passes all checks. Any other error is raised."""
    try:
        attempt(experiment)
    except QuantexpError as error:
        return str(error)
    return None


def image(count: int = 4) -> Batch:
    return (torch.linspace(-1, 1, count * SIDE**2).view(count, SIDE**2).sin(),)


# Activations that have a scale of their own


@pytest.mark.parametrize("flow", OLD_FLOWS)
@pytest.mark.parametrize("method", [Static, Qat])
@pytest.mark.parametrize(
    "network",
    [
        activations.Elu,
        activations.Prelu,
        activations.LeakyRelu,
        activations.Hardswish,
        activations.Sigmoid,
        activations.Softmax,
        activations.ConvPrelu,
        activations.ConvHardswish,
    ],
)
def test_a_loaded_network_predicts_what_the_quantized_one_did_whatever_its_activation(
    asked: Asked, tmp_path: Path, network: type[nn.Module], method: type[Static | Qat], flow: Flow
) -> None:
    experiment = asked(network, method(flow=flow), data=DataSource.sample)
    data = load(experiment)
    if network in WITHOUT[flow]:
        assert "quant.flow=" in str(refusal(experiment))
        return
    made = quantized(experiment, data).model
    loaded = loaded_again(tmp_path, made, experiment, data, trust=True)
    batch = data.test.first(64)
    with torch.no_grad():
        assert torch.equal(loaded(*batch), made(*batch))


# Recurrent layers


def gates(inputs: int, hidden: int, count: int) -> int:
    """The products of one step of a recurrent layer with so many gates."""
    return count * hidden * (inputs + hidden)


W = recurrent.WIDTH
RECURRENT = {
    recurrent.Lstm: SIDE * gates(SIDE, W, 4) + W * CLASSES,
    recurrent.LstmTwoLayers: SIDE * (gates(SIDE, W, 4) + gates(W, W, 4)) + W * CLASSES,
    recurrent.LstmBidirectional: SIDE * 2 * gates(SIDE, W, 4) + 2 * W * CLASSES,
    recurrent.LstmOnly: SIDE * gates(SIDE, CLASSES, 4),
    recurrent.LstmCell: SIDE * gates(SIDE, W, 4) + W * CLASSES,
    recurrent.Gru: SIDE * gates(SIDE, W, 3) + W * CLASSES,
    recurrent.GruCell: SIDE * gates(SIDE, W, 3) + W * CLASSES,
    recurrent.RnnCell: SIDE * gates(SIDE, W, 1) + W * CLASSES,
}


@pytest.mark.parametrize("network", RECURRENT)
def test_the_products_of_gates_are_counted(network: type[nn.Module]) -> None:
    found = account(network(SIDE**2, CLASSES).eval(), image(1))  # type: ignore[call-arg]
    assert (found.macs, found.unknown) == (RECURRENT[network], ())


@pytest.mark.parametrize("network", RECURRENT)
def test_dynamic_quantizes_recurrent_layers_and_counts_their_gates(asked: Asked, network: type[nn.Module]) -> None:
    made = attempt(asked(network, Dynamic(flow=Flow.eager)))
    assert made.evidence.mac_share("int8") == pytest.approx(1.0)


@pytest.mark.parametrize("flow", [Flow.fx, Flow.torchao])
def test_gates_that_stay_in_float_are_not_claimed_as_int8(asked: Asked, flow: Flow) -> None:
    try:
        made = attempt(asked(recurrent.Lstm, Dynamic(flow=flow)))
    except QuantizationError:
        return
    share = made.evidence.mac_share("int8")
    assert share is None or share == pytest.approx(W * CLASSES / RECURRENT[recurrent.Lstm])


# Attention


def test_fused_attention_and_attention_written_out_have_the_same_account() -> None:
    torch.manual_seed(0)
    inputs = image(1)
    fused = account(attention.FusedAttention(SIDE**2, CLASSES).eval(), inputs)
    out = account(attention.OwnAttention(SIDE**2, CLASSES).eval(), inputs)
    width = attention.WIDTH
    assert out.macs - fused.macs == SIDE * width * width  # the projection behind
    assert fused.macs == 4 * SIDE * width**2 + 2 * SIDE * SIDE * width + width * CLASSES


def test_a_fused_encoder_layer_is_counted_whole() -> None:
    width, inner = attention.WIDTH, 32
    found = account(attention.EncoderLayer(SIDE**2, CLASSES).eval(), image(1))
    layer = SIDE * (4 * width**2 + 2 * width * inner) + 2 * SIDE * SIDE * width
    assert (found.macs, found.unknown) == (SIDE * SIDE * width + layer + width * CLASSES, ())


@pytest.mark.parametrize("network", [attention.EncoderLayer, attention.OwnAttention])
def test_some_flow_of_dynamic_quantizes_the_linear_layers_of_attention(asked: Asked, network: type[nn.Module]) -> None:
    assert any(refusal(asked(network, Dynamic(flow=flow))) is None for flow in Dynamic.portable_flows())


# Containers that are empty


@pytest.mark.parametrize("network", [structure.EmptySequential, structure.Containers, blocks.BasicBlock])
@pytest.mark.parametrize("method", [Static, Qat])
def test_empty_containers_are_quantized_in_eager_mode(
    asked: Asked, network: type[nn.Module], method: type[Static | Qat]
) -> None:
    if network is blocks.BasicBlock:  # it adds, which eager mode cannot
        message = refusal(asked(blocks.ResNet, method(flow=Flow.eager)))
        assert message is not None and "quant.flow=" in message
        return
    assert attempt(asked(network, method(flow=Flow.eager))).evidence.mac_share("int8") == pytest.approx(1.0)


# Weights that are computed


COMPUTED = [
    weights.WeightNormOld,
    weights.WeightNorm,
    weights.SpectralNormOld,
    weights.SpectralNorm,
    weights.Pruned,
    weights.OwnParametrization,
]


@pytest.mark.parametrize("network", COMPUTED)
def test_a_second_run_with_computed_weights_is_like_the_first(
    asked: Asked, tmp_path: Path, network: type[nn.Module]
) -> None:
    experiment = asked(network, Dynamic(), data=DataSource.sample, cache_dir=str(tmp_path))
    first, second = (_sample_predictions(experiment) for _ in range(2))
    assert torch.equal(first, second)


def _sample_predictions(experiment: Experiment) -> Tensor:
    data = load(experiment)
    return predictions(quantized(experiment, data, trained(experiment, data)).model, data.test)


@pytest.mark.parametrize("network", COMPUTED)
def test_simulated_bits_round_weights_that_are_computed(asked: Asked, network: type[nn.Module]) -> None:
    option = FakeQuant(weight_bits=2, calibration_examples=EXAMPLES)
    experiment = asked(network, option, data=DataSource.sample)
    trained(experiment, load(experiment))  # so that the next one is from the cache
    model = quantized(experiment).model
    seen: list[Tensor] = []
    with torch.no_grad(), _products(seen):
        model(*load(experiment).test.first(4))
    assert len(seen) >= 2
    assert all(len(row.unique()) <= 4 for weight in seen for row in weight)


class _products(torch.overrides.TorchFunctionMode):
    """Notes the weights that F.linear takes."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            self._seen.append(args[1].detach())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("network", [weights.WeightNorm, weights.SpectralNorm, weights.WeightNormOld, weights.Pruned])
def test_computed_weights_count_once_and_are_no_layers_of_their_own(asked: Asked, network: type[nn.Module]) -> None:
    experiment = asked(network, NoQuant())
    plain = structure.Pair(SIDE**2, CLASSES)
    made = attempt(experiment)
    own = parameter_count(trained(experiment, load(experiment)).model)
    count = sum(parameter.numel() for parameter in plain.parameters())
    norms_of_rows = {weights.WeightNorm: structure.WIDTH + CLASSES, weights.WeightNormOld: structure.WIDTH}
    assert own in (count, count + norms_of_rows.get(network, 0))
    assert {layer.name: layer.kind for layer in made.evidence.layers} == {"a": "Linear", "b": "Linear"}


# Training mode that outlives training


DROPPING = (norms.Dropout, norms.ConvDropout, norms.LinearNorm, norms.FunctionalDropout)


@pytest.mark.parametrize(
    ("network", "flow"),
    [
        *((network, flow) for network in DROPPING for flow in OLD_FLOWS),
        (norms.Dropout, Flow.pt2e),
        *(pytest.param(network, Flow.pt2e, marks=pytest.mark.exhaustive) for network in DROPPING[1:]),
    ],
)
def test_a_loaded_network_of_qat_is_in_evaluation_mode(
    asked: Asked, tmp_path: Path, network: type[nn.Module], flow: Flow
) -> None:
    experiment = asked(network, Qat(flow=flow))
    data = load(experiment)
    made = quantized(experiment, data).model
    loaded = loaded_again(tmp_path, made, experiment, data, trust=True)
    batch = data.test.first(64)
    with torch.no_grad():
        first, second = loaded(*batch), loaded(*batch)
        assert torch.equal(first, second)
        assert torch.equal(first, made(*batch))
    alone = torch.cat([loaded(*(tensor[row : row + 1] for tensor in batch)) for row in range(4)])
    assert torch.allclose(alone, first[:4], atol=1e-4)  # no statistics of a batch


# Convolutions of every kind


def test_a_convolution_over_time_runs_in_int8_or_stays_in_float_under_pt2e(asked: Asked) -> None:
    made = attempt(asked(convolutions.Conv1d, static(Flow.pt2e)))
    kinds = {layer.name: layer.precision for layer in made.evidence.layers}
    total = SIDE * 8 * 3 * (SIDE - 2) + 8 * (SIDE - 2) * CLASSES
    head = 8 * (SIDE - 2) * CLASSES
    expected = 1.0 if kinds["conv"] == "int8" else head / total
    assert made.evidence.mac_share("int8") == pytest.approx(expected)


@pytest.mark.parametrize("network", [convolutions.SamePadding, convolutions.ReflectPadding])
def test_some_flow_quantizes_every_padding(asked: Asked, network: type[nn.Module]) -> None:
    assert any(refusal(asked(network, static(flow))) is None for flow in Static.portable_flows())


def test_the_products_of_a_transposed_convolution_are_those_of_its_inputs() -> None:
    torch.manual_seed(0)
    network = convolutions.Transposed((_image_spec(),), CLASSES).eval()
    down, up = (SIDE // 2) ** 2 * 8 * 9, (SIDE // 2) ** 2 * 8 * 4 * 16
    assert account(network, (torch.rand(1, 1, SIDE, SIDE),)).macs == down + up + 4 * CLASSES


@pytest.mark.parametrize("network", [convolutions.Transposed, convolutions.Transposed1d, blocks.UNet])
@pytest.mark.parametrize("engine", [Engine(name) for name in supported_engines()])
def test_wrong_kernels_of_transposed_convolutions_never_pass(
    asked: Asked, network: type[nn.Module], engine: Engine
) -> None:
    try:
        made = attempt(asked(network, static(Flow.fx, engine=engine)))
    except CheckError as error:
        assert error.check in ("kernels", "repeated")
        check_engine(asked, network, str(error))
    except QuantizationError as error:
        assert engine.value in str(error) or "quant." in str(error)
    else:
        assert made.output_sqnr_db is None or made.output_sqnr_db > 10


def check_engine(asked: Asked, network: type[nn.Module], message: str) -> None:
    """The engine that a message advises is right."""
    for name in re.findall(r"use quant\.engine=(\w+)", message):
        assert refusal(asked(network, static(Flow.fx, engine=Engine(name)))) is None


def _image_spec() -> Any:
    from quantexp.results import InputSpec

    return InputSpec("image", (1, SIDE, SIDE))


# Products of functions


@pytest.mark.parametrize(
    "network", [weights.FunctionalLinear, weights.FunctionalBeside, weights.FunctionalConv, weights.Subclass]
)
@pytest.mark.parametrize("method", [Static, Qat])
def test_functions_with_parameters_run_in_int8_and_are_stored(
    asked: Asked, tmp_path: Path, network: type[nn.Module], method: type[Static | Qat]
) -> None:
    experiment = asked(network, method(flow=Flow.fx))
    made = attempt(experiment)
    kept = {layer.name for layer in made.evidence.layers if layer.precision != "int8"}
    share = made.evidence.mac_share("int8")
    assert share == pytest.approx(1.0) if not kept else share is not None and 0 < share < 1
    data = load(experiment)
    network_made = quantized(experiment, data).model
    loaded = loaded_again(tmp_path, network_made, experiment, data, trust=True)
    batch = data.test.first(16)
    with torch.no_grad():
        assert torch.equal(loaded(*batch), network_made(*batch))


# Dtypes of one's own


@pytest.mark.parametrize("network", [recurrent.LstmGivenState, structure.Float64, structure.Bfloat16Layer])
@pytest.mark.parametrize(
    ("quant", "precision"),
    [
        (NoQuant(), "bf16"),
        (NoQuant(), "fp16"),
        (Dynamic(), "int8"),
        (static(Flow.fx), "int8"),
        (static(Flow.eager), "int8"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.name} {getattr(value, 'flow', '')}",
)
def test_own_dtypes_are_right_or_refused(asked: Asked, network: type[nn.Module], quant: Quant, precision: str) -> None:
    message = refusal(asked(network, quant, precision=precision))
    assert message is None or re.search(r"; (use|build) ", message), message


# A ReLU that is lost in fusion


@pytest.mark.parametrize("network", [norms.LinearNorm, norms.ConvNorm, convolutions.Conv1dNorm, norms.NormalisedInput])
@pytest.mark.parametrize("scheme", list(Scheme))
def test_a_lost_relu_never_passes(asked: Asked, network: type[nn.Module], scheme: Scheme) -> None:
    try:
        made: Attempt = attempt(asked(network, static(Flow.fx, activations=scheme)))
    except CheckError as error:
        assert error.check == "kernels" and "quant." in str(error)
    else:
        assert made.output_sqnr_db is not None and made.output_sqnr_db > 10
