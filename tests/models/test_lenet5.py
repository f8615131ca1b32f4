"""LeNet-5: the network of the notebook, and what of it each method quantizes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quantexp import models
from quantexp.benchmark.size import parameter_count, state_bytes, weight_bytes
from quantexp.config import (
    METHODS,
    Amp,
    Dynamic,
    Experiment,
    Flow,
    Granularity,
    Kind,
    Lenet5,
    Mlp,
    Mnist,
    NoQuant,
    Qat,
    Quant,
    Static,
    Train,
    WeightOnly,
)
from quantexp.mission import load, run
from quantexp.models.lenet5 import LeNet5
from quantexp.quant.flows import fx
from quantexp.quant.flows.eager import DYNAMICALLY
from quantexp.quant.inspection.account import account
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods import qat
from quantexp.reports.table import comparison_table
from quantexp.results import Evidence, InputSpec, LeftInFloat, Operator
from quantexp.storage import stored
from quantexp.storage.recipe import Recipe
from quantexp.system.errors import ConfigError, QuantizationError
from quantexp.tasks import mnist
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import Baseline, trained
from tests.networks import inspected, loaded_again, made, predictions
from tests.runs import quantized as quantized_by

Sample = Callable[..., Experiment]

CLASSES = 10
CHANNELS = pytest.mark.parametrize("channels", [1, 3])
PAIRS = [(method, precision) for method in METHODS for precision in method.precisions]
FITTING = [pair for pair in PAIRS if pair != (WeightOnly, "int4")]  # no width of LeNet-5 is a multiple of 32
LAYERS = ["features.0", "features.3", "classifier.0", "classifier.2", "classifier.4"]
LINEAR = 400 * 120 + 120 * 84 + 84 * CLASSES  # weights, and multiply-accumulates too: each is used once
OUTPUTS = 6 + 16 + 120 + 84 + CLASSES  # channels and units: each has a bias


def of_pair(value: object) -> str:
    return value.name if isinstance(value, type) and issubclass(value, Quant) else str(value)


def convolving(channels: int) -> tuple[int, int]:
    """Multiply-accumulates of the two convolutions: weights of a value, channels, height, width."""
    return (channels * 5 * 5) * 6 * 28 * 28, (6 * 5 * 5) * 16 * 10 * 10


def weights(channels: int) -> int:
    return (channels * 5 * 5) * 6 + (6 * 5 * 5) * 16 + LINEAR


def network(channels: int) -> LeNet5:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LeNet5((channels, 32, 32), CLASSES).eval()


def example(channels: int, count: int = 2) -> Tensor:
    """Images, shape (count, channels, 32, 32)."""
    return torch.randn(count, channels, 32, 32, generator=torch.Generator().manual_seed(channels))


def in_a_row(channels: int) -> LeNet5:
    """The same network for the values of an image in a row, as stored networks of format 3 take them."""
    model = LeNet5((channels * 32 * 32,), CLASSES).eval()
    model.load_state_dict(network(channels).state_dict())
    return model


def lowered(option: Quant, channels: int, precision: str) -> nn.Module:
    return made(option, network(channels), precision, example(channels))


# The network


@CHANNELS
def test_its_layers_are_those_of_the_notebook(channels: int) -> None:
    shapes = {name: tuple(value.shape) for name, value in network(channels).state_dict().items()}
    sizes = [(6, channels, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (CLASSES, 84)]
    assert [shapes[f"{name}.weight"] for name in LAYERS] == sizes
    assert [shapes[f"{name}.bias"] for name in LAYERS] == [size[:1] for size in sizes]
    assert len(shapes) == 2 * len(LAYERS)


def test_on_the_images_of_mnist_it_has_61706_parameters_and_416520_multiply_accumulates() -> None:
    assert parameter_count(network(1)) == weights(1) + OUTPUTS == 61_706
    assert account(network(1), (example(1, 7),)).flops == 2 * (sum(convolving(1)) + LINEAR) == 2 * 416_520


@CHANNELS
def test_images_shrink_to_sixteen_maps_of_five_by_five(channels: int) -> None:
    seen: list[tuple[int, ...]] = []
    model = network(channels)
    for layer in model.features:
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(tuple(output.shape)))
    assert model(example(channels, 3)).shape == (3, CLASSES)
    assert seen == [(3, c, side, side) for c, side in ((6, 28), (6, 28), (6, 14), (16, 10), (16, 10), (16, 5))]


@CHANNELS
def test_a_row_of_values_is_an_image_channel_after_channel_and_row_by_row(channels: int) -> None:
    model = in_a_row(channels)
    model.features[0].weight.data.fill_(0.0)
    model.features[0].bias.data.fill_(0.0)
    last, row, column = channels - 1, 9, 20
    model.features[0].weight.data[:, last, 0, 0] = 1.0  # a value is the pixel at its own place in the last channel
    flat = torch.zeros(1, channels * 32 * 32)
    flat[0, last * 32 * 32 + row * 32 + column] = 1.0
    seen: list[Tensor] = []
    model.features[0].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    model(flat)
    assert seen[0].nonzero().tolist() == [[0, map_, row, column] for map_ in range(6)]


@CHANNELS
def test_built_for_the_values_of_an_image_in_a_row_it_computes_the_same(channels: int) -> None:
    images = example(channels, 5)
    assert torch.equal(in_a_row(channels)(images.flatten(1)), network(channels)(images))


def test_inputs_that_lie_apart_in_memory_are_taken_as_they_are() -> None:
    images = example(1, 4)
    for model, inputs in ((network(1), images), (in_a_row(1), images.flatten(1))):
        apart = inputs.transpose(0, -1).contiguous().transpose(0, -1)
        assert not apart.is_contiguous()
        torch.testing.assert_close(model(apart), model(inputs))


@pytest.mark.parametrize("shape", [(400,), (784,), (2 * 32 * 32,), (1, 28, 28), (2, 32, 32), (1, 32), (32, 32, 1)])
def test_inputs_of_another_size_are_refused_with_those_that_it_takes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        models.build(Lenet5(), (InputSpec("pixels", shape),), CLASSES)
    assert str(error.value) == (
        f"model=lenet5 takes images of 1x32x32 or 3x32x32, got {'x'.join(map(str, shape))}; resize them"
    )


# Every method


@CHANNELS
@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_every_method_multiplies_as_often_as_the_float_network_and_keeps_its_parameters(
    method: type[Quant], precision: str, channels: int
) -> None:
    model = lowered(method(), channels, precision)
    evidence = inspected(model, example(channels))
    assert sum(one.macs for one in evidence.operators) == sum(convolving(channels)) + LINEAR
    assert sum(one.calls for one in evidence.operators) == len(LAYERS)
    assert parameter_count(model) == weights(channels) + OUTPUTS
    assert model(example(channels, 5)).shape == (5, CLASSES)


@CHANNELS
@pytest.mark.parametrize("method", [Static, Qat], ids=of_pair)
def test_fx_fuses_each_convolution_with_its_relu_and_runs_the_whole_network_in_int8(
    method: type[Static | Qat], channels: int
) -> None:
    evidence = inspected(lowered(method(), channels, "int8"), example(channels))
    kinds = ["ConvReLU2d", "ConvReLU2d", "LinearReLU", "LinearReLU", "Linear"]
    assert [(one.name, one.kind) for one in evidence.layers] == list(zip(LAYERS, kinds, strict=True))
    assert {(one.precision, one.bits, one.qscheme) for one in evidence.layers} == {("int8", 8, "per_channel_affine")}
    assert evidence.operators == (
        Operator("quantized.conv2d_relu", "int8", 2, sum(convolving(channels))),
        Operator("quantized.linear_relu", "int8", 2, 400 * 120 + 120 * 84),
        Operator("quantized.linear", "int8", 1, 84 * CLASSES),
    )
    assert evidence.mac_share("int8") == 1.0


@pytest.mark.parametrize("method", [Static, Qat], ids=of_pair)
def test_from_its_input_to_its_logits_it_never_goes_back_to_float(method: type[Static | Qat]) -> None:
    targets = [node.target for node in lowered(method(), 1, "int8").graph.nodes]
    assert targets.count(torch.quantize_per_tensor) == 1
    assert targets.count("dequantize") == 1


@pytest.mark.parametrize("precision", Dynamic.precisions)
def test_dynamic_leaves_the_convolutions_in_float_and_says_so(sample: Sample, precision: str) -> None:
    _, _, quantized, evidence = trained_and_quantized(sample, Dynamic(), precision)
    assert [one.precision for one in evidence.layers] == ["fp32"] * 2 + [precision] * 3
    reason = f"the method handles {DYNAMICALLY}, not Conv2d"
    assert evidence.left_in_float == tuple(LeftInFloat(name, reason) for name in LAYERS[:2])
    # 58,920 of 416,520: the convolutions have 4 % of the weights and 86 % of the work.
    assert evidence.mac_share(precision) == LINEAR / (sum(convolving(1)) + LINEAR)
    assert evidence.mac_share("fp32") == pytest.approx(0.8585, abs=1e-4)
    held = weight_bytes(quantized.model)
    assert held[precision] == LINEAR * (1 if precision == "int8" else 2)
    assert held["fp32"] == 4 * (weights(1) - LINEAR + OUTPUTS)


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("method", [Static, Qat], ids=of_pair)
def test_what_is_packed_in_quantized_convolutions_is_counted(
    method: type[Static | Qat], granularity: Granularity
) -> None:
    model = lowered(method(weights=granularity), 1, "int8")
    held = weight_bytes(model)
    assert held["int8"] == weights(1)
    assert held["fp32"] == 4 * (OUTPUTS + 1)  # biases, and the scale of the input
    assert held.get("fp64", 0) == (8 * OUTPUTS if granularity is Granularity.per_channel else 0)  # scales


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_casting_halves_every_weight_and_amp_none(precision: str) -> None:
    cast = inspected(lowered(NoQuant(), 1, precision), example(1))
    assert {one.precision for one in (*cast.layers, *cast.operators)} == {precision}
    amp = inspected(lowered(Amp(), 1, precision), example(1))
    assert {one.precision for one in amp.layers} == {"fp32"}
    assert {one.precision for one in amp.operators} == {precision}
    assert amp.mac_share(precision) == 1.0


@pytest.mark.exhaustive
@pytest.mark.parametrize("flow", Static.portable_flows())
def test_a_stored_network_of_format_3_is_built_for_values_in_a_row(flow: Flow, tmp_path: Path) -> None:
    option = Static(flow=flow)
    model = made(option, in_a_row(1), "int8", example(1).flatten(1))
    stored.save(tmp_path, model, Recipe({}, {"name": "lenet5"}, {"name": "none"}, "int8", (), CLASSES))
    described = {
        "format": 3,
        "task": {"name": "mnist", "crop": 32, "hidden": [1024, 1024]},
        "model": {"name": "lenet5"},
        "quant": {"name": "static", "flow": flow.value},
        "precision": "int8",
        "inputs": 32 * 32,
        "classes": CLASSES,
    }
    (tmp_path / "recipe.json").write_text(json.dumps(described), encoding="utf-8")
    again, images = stored.load(tmp_path), mnist._sample()[0][:8]
    values = mnist.encode(Mnist(crop=32), Kind.features, images, ())[0]
    with torch.no_grad():
        assert torch.equal(again(*values), model(*values))
        expected = model(*values).argmax(1).tolist()
    found = again.predict(images)
    assert isinstance(found, list)
    assert [one.label for one in found] == expected


# In a run


def trained_and_quantized(
    sample: Sample, quant: Quant, precision: str | None = None, **parts: object
) -> tuple[Experiment, Baseline, Quantized, Evidence]:
    """Train on the sample's digits, quantize, and look at what was left."""
    train = Train(epochs=4, learning_rate=0.005, threads=1)  # enough to tell the classes apart
    experiment = sample(model=Lenet5(), quant=quant, precision=precision, **{"train": train, **parts})
    data = load(experiment)
    baseline = trained(experiment, data)
    quantized = quantized_by(experiment, data, baseline)
    return (
        experiment,
        baseline,
        quantized,
        inspected(quantized.model, *data.example, promise=quantized.promise, engine=quant.packs_for),
    )


def share_right(model: nn.Module, data: TaskData) -> float:
    return (predictions(model, data.test) == data.test.labels).double().mean().item()


def test_groups_that_no_layer_is_made_of_are_told_layer_by_layer(sample: Sample) -> None:
    told = r"classifier\.0: its 400 inputs are not a multiple of quant\.group_size=32"
    with pytest.raises(QuantizationError, match=told):
        trained_and_quantized(sample, WeightOnly(), "int4")


@pytest.mark.exhaustive
@pytest.mark.parametrize(("method", "precision"), FITTING, ids=of_pair)
def test_every_method_learns_keeps_its_promise_and_is_given_back_bit_for_bit(
    sample: Sample, tmp_path: Path, method: type[Quant], precision: str
) -> None:
    experiment, baseline, quantized, _ = trained_and_quantized(sample, method(), precision)
    data = load(experiment)
    assert [spec.shape for spec in data.inputs] == [(1, 32, 32)]
    assert share_right(baseline.model, data) > 0.85
    assert share_right(quantized.model, data) > 0.85
    again, batch = loaded_again(tmp_path, quantized.model, experiment, data), data.test.first(len(data.test))
    with torch.no_grad():
        assert torch.equal(again(*batch), quantized.model(*batch))
    images = mnist._sample()[0][: mnist.SAMPLE_TEST]
    found = again.predict(images)
    assert isinstance(found, list)
    assert [one.label for one in found] == predictions(quantized.model, data.test).tolist()


@pytest.mark.parametrize("method", [Static, Qat], ids=of_pair)
def test_int8_makes_it_more_than_three_times_smaller(sample: Sample, method: type[Quant]) -> None:
    # Less than an MLP: 61,470 weights become bytes, and each of the ten tensors takes its room in the file.
    _, baseline, quantized, _ = trained_and_quantized(sample, method())
    assert 3.0 < state_bytes(baseline.model) / state_bytes(quantized.model) < 4.0


def test_the_convolutions_of_qat_lie_on_the_grid_that_it_trained_with(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []
    convert = fx.convert

    def keeping(prepared: nn.Module, target: str) -> nn.Module:
        seen.append(copy.deepcopy(prepared.state_dict()))
        return convert(prepared, target)

    monkeypatch.setattr(fx, "convert", keeping)
    monkeypatch.setattr(qat, "skeleton", lambda option, network, form: network)  # converted to see whether it runs
    _, _, quantized, _ = trained_and_quantized(sample, Qat())
    for name in LAYERS[:2]:
        weight, scale = (seen[0][f"model.{name}.{part}"] for part in ("weight", "weight_fake_quant.scale"))
        held = quantized.model.get_submodule(name).weight()
        assert scale.shape == weight.shape[:1]
        torch.testing.assert_close(held.q_per_channel_scales().float(), scale)
        steps = (weight / scale.view(-1, 1, 1, 1)).round().clamp(-128, 127)
        assert torch.equal(held.int_repr().float(), steps)


def test_training_starts_from_weights_of_ones_own(sample: Sample, tmp_path: Path) -> None:
    _, trained, _, _ = trained_and_quantized(sample, NoQuant())
    save_file(trained.model.state_dict(), tmp_path / "own.safetensors")
    train = Train(threads=1, checkpoint=str(tmp_path / "own.safetensors"))
    experiment, baseline, quantized, evidence = trained_and_quantized(sample, Static(), train=train)
    data = load(experiment)
    assert baseline.training is None
    assert evidence.mac_share("int8") == 1.0
    batch = data.test.first(64)
    with torch.no_grad():
        assert torch.equal(baseline.model(*batch), trained.model(*batch))
    assert share_right(quantized.model, data) > 0.85


def test_a_run_reports_the_network_its_operations_and_what_was_left(sample: Sample) -> None:
    train = Train(epochs=1, threads=1)
    report = run(sample(model=Lenet5(), quant=Dynamic(), train=train)).report
    assert (report.model, report.flops) == ("lenet5", 2 * 416_520)
    table = comparison_table(report)
    assert table.columns[0] == "mnist (sample), lenet5"
    assert (
        "Evidence: 3 of 5 layers have int8 weights (quant.flow=eager), 14% of the multiply-accumulates ran in int8; "
        "left in float: "
        f"features.0 and features.3 (the method handles {DYNAMICALLY}, not Conv2d)." in table.notes
    )


def test_it_shares_no_cache_entry_with_another_network(sample: Sample, tmp_path: Path) -> None:
    for model in (Lenet5(), Mlp(hidden=[8])):
        experiment = sample(model=model, train=Train(epochs=1, threads=1), cache_dir=str(tmp_path))
        trained(experiment, load(experiment))
    assert len(list((tmp_path / "models").glob("*.json"))) == 2
