"""The networks of torchvision: how they are built, what images they take, their own fusing, and their weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from quantexp.config import DataSource, Experiment, Flow, Kind, Mnist, Qat, Quant, Static, Torchvision
from quantexp.config.torchvision import NETWORKS
from quantexp.mission import attempt
from quantexp.models import torchvision
from quantexp.models.torchvision import build
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.methods import skeleton
from quantexp.quant.methods.qat import unrounded
from quantexp.quant.methods.work import Form
from quantexp.results import InputSpec
from quantexp.state.copies import copied
from quantexp.state.fitting import fit
from quantexp.storage import stored
from quantexp.storage.recipe import Recipe
from quantexp.system.errors import ConfigError, QuantizationError, TrainingError
from quantexp.tasks.inputs import examples

CLASSES = 5
QUANTIZABLE = ("mobilenet_v2", "shufflenet_v2_x0_5", "resnet18")


def images(side: int, channels: int = 3) -> tuple[InputSpec, ...]:
    return (InputSpec("pixels", (channels, side, side)),)


def settled(name: str, side: int = 32, seed: int = 0) -> nn.Module:
    """Return a network whose normalisations have the statistics of a batch, so that its outputs do not vanish."""
    torch.manual_seed(seed)
    network = build(Torchvision(network=name), images(side), CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(*examples(images(side), 16))
    return network.eval()


@torch.no_grad()
def outputs(network: nn.Module, *batch: Tensor) -> Tensor:
    logits: Tensor = network.eval()(*batch)
    return logits


# Building


def test_every_network_for_classification_of_torchvision_is_known() -> None:
    assert tuple(models.list_models(module=models)) == NETWORKS


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_one_output_for_each_class(name: str) -> None:
    with torch.device("meta"):
        network = build(Torchvision(network=name), images(224), CLASSES)
    assert {tensor.device.type for tensor in (*network.parameters(), *network.buffers())} == {"meta"}
    for mode in (True, False):
        assert network.train(mode)(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, CLASSES)


def test_a_seed_gives_the_same_weights_whether_or_not_the_size_was_tried_before() -> None:
    torchvision._check.cache_clear()
    first, second = (settled("squeezenet1_1").state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "side", "works"), [("alexnet", 32, 63), ("vgg11", 31, 32), ("vit_b_32", 40, 64), ("squeezenet1_1", 8, 17)]
)
def test_an_image_that_is_too_small_is_refused_with_the_smallest_side_that_works(
    name: str, side: int, works: int
) -> None:
    with pytest.raises(ConfigError) as error:
        build(Torchvision(network=name), images(side), CLASSES)
    got = f"3x{side}x{side}; the next side that works is {works} pixels"
    assert error.value.faults == (f"model=torchvision model.network={name} does not take images of {got}",)
    with torch.device("meta"):
        build(Torchvision(network=name), images(works), CLASSES)


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"takes images of 3 channels, got 1x32x32; convert them"):
        build(Torchvision(network="resnet18"), images(32, channels=1), CLASSES)
    with pytest.raises(ConfigError, match=r"takes square images, got 3x32x64; crop or resize them"):
        build(Torchvision(network="vit_b_16"), (InputSpec("pixels", (3, 32, 64)),), CLASSES)


def test_images_that_are_not_square_go_through_most_networks() -> None:
    network = build(Torchvision(network="resnet18"), (InputSpec("pixels", (3, 32, 48)),), CLASSES)
    assert outputs(network, torch.zeros(2, 3, 32, 48)).shape == (2, CLASSES)


def test_a_state_dict_without_versions_is_loaded() -> None:
    network, other = settled("mnasnet0_5"), settled("mnasnet0_5", seed=1)
    other.load_state_dict(dict(network.state_dict()))  # as files of safetensors are
    batch = examples(images(32), 2)
    assert torch.equal(outputs(other, *batch), outputs(network, *batch))


# The form for quantization


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_the_form_for_quantization_has_the_same_names_and_outputs(name: str) -> None:
    network = settled(name)
    form = network.quantizable()  # type: ignore[operator]
    form.load_state_dict(network.state_dict())
    (batch,) = examples(images(32), 4)
    torch.testing.assert_close(outputs(form, 3 * batch), outputs(network, 3 * batch))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name in ("googlenet", "inception_v3")])
@pytest.mark.parametrize("rescaled", [False, True])
def test_the_form_of_a_network_that_rescales_its_inputs_has_the_same_outputs(name: str, rescaled: bool) -> None:
    network = build(Torchvision(network=name, transform_input=rescaled), images(75), CLASSES)
    form = network.quantizable()  # type: ignore[operator]
    form.load_state_dict(network.state_dict())
    batch = examples(images(75), 2)
    torch.testing.assert_close(outputs(form, *batch), outputs(network, *batch))


def test_relu6_is_kept_where_its_limit_matters() -> None:
    network = settled("mobilenet_v2")
    form = Form("int8", examples(images(32), 4))
    expected = outputs(network, *form.example)
    limits = [module for module in network.modules() if type(module) is nn.ReLU6]
    assert len(limits) == 35
    peaks: list[float] = []
    hook = limits[0].register_forward_pre_hook(lambda _, inputs: peaks.append(float(inputs[0].max())))
    network.features[0][1].weight.data *= 4  # so that the limit is reached
    changed = outputs(network, *form.example)
    hook.remove()
    assert peaks[0] > 6
    assert not torch.allclose(changed, expected)
    trained = unrounded(Qat(flow=Flow.eager), network, form)
    torch.testing.assert_close(outputs(trained, *form.example), changed, rtol=1e-3, atol=1e-3)

    quantized = skeleton(Static(flow=Flow.eager), copied(network), form)
    highest: list[float] = []
    for module in quantized.modules():
        if type(module).__name__ == "ConvReLU2d":
            module.register_forward_hook(lambda _, inputs, output: highest.append(float(output.dequantize().max())))
    outputs(quantized, *form.example)
    assert len(highest) == 35
    assert max(highest) == pytest.approx(6, abs=6 / 127)  # int8 saturates there


@pytest.mark.parametrize("name", QUANTIZABLE)
@pytest.mark.parametrize("flow", [Flow.eager, Flow.fx])
def test_all_layers_are_quantized_and_loaded_again(tmp_path: Path, name: str, flow: Flow) -> None:
    network, option = settled(name, 64), Static(flow=flow)
    batch = examples(images(64), 4)
    quantized = skeleton(option, copied(network), Form("int8", batch))
    assert {held.dtype for held in held_weights(quantized) if held.weight.dim() > 1} == {torch.qint8}
    described = {"name": "torchvision", "network": name, "transform_input": False}
    recipe = Recipe({}, described, {"name": "static", "flow": flow.value}, "int8", images(64), CLASSES, Kind.image)
    stored.save(tmp_path, quantized, recipe)
    again = stored.load(tmp_path)
    assert torch.equal(outputs(again, *batch), outputs(quantized, *batch))


@pytest.mark.parametrize("training", [False, True])
def test_a_layer_can_stay_in_float_in_the_form_for_quantization(training: bool) -> None:
    network, method = settled("resnet18"), Qat if training else Static
    option: Quant = method(flow=Flow.eager, exclude=["layer1.0.conv2", "fc"])
    quantized = skeleton(option, copied(network), Form("int8", examples(images(32), 4)))
    found = {held.name: held.dtype for held in held_weights(quantized) if held.weight.dim() > 1}
    assert [name for name, dtype in found.items() if dtype is torch.float32] == ["layer1.0.conv2", "fc"]


@pytest.mark.exhaustive
def test_a_network_without_such_a_form_is_refused_with_what_works() -> None:
    experiment = Experiment(
        task=Mnist(),
        model=Torchvision(network="regnet_x_400mf"),
        quant=Static(flow=Flow.eager),
        data=DataSource.synthetic,
    )
    with pytest.raises(QuantizationError) as error:
        attempt(experiment)
    message = str(error.value)
    assert "quant=static quant.flow=eager needs a network that it can quantize and run, but it failed" in message
    assert "; use quant" in message


class Doubled(nn.Module):
    """A network whose form for quantization is another function."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(3, 2), factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.factor * self.layer(x)
        return logits

    def quantizable(self) -> Doubled:
        return Doubled(2.0)

    def fuse_model(self, is_qat: bool) -> None:
        """Fuse nothing."""


def test_a_form_that_computes_something_else_is_refused() -> None:
    with pytest.raises(QuantizationError, match=r"quantizable\(\) must return the same network, .* differ by up to "):
        skeleton(Static(flow=Flow.eager), Doubled().eval(), Form("int8", (torch.ones(2, 3),)))


# The weights


def test_old_names_and_auxiliary_classifiers_of_torchvisions_files_are_taken() -> None:
    network = settled("densenet121")
    state = network.state_dict()
    old = {
        name.replace(".norm1.", ".norm.1.").replace(".norm2.", ".norm.2."): tensor + 1
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    fit(network, old, "a file")
    assert torch.equal(network.state_dict()["features.denseblock1.denselayer1.norm1.weight"], torch.full((64,), 2.0))

    inception = build(Torchvision(network="inception_v3"), images(75), CLASSES)
    fit(inception, {**inception.state_dict(), "AuxLogits.fc.weight": torch.zeros(2, 2)}, "a file")


class Hub:
    """Weights of squeezenet1_1 in a folder, where torchvision's own weights are elsewhere."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(7)
        self.network = models.squeezenet1_1()
        torch.save(self.network.state_dict(), folder / "saved.pth")
        digest = hashlib.sha256((folder / "saved.pth").read_bytes()).hexdigest()
        self.path = (folder / "saved.pth").rename(folder / f"squeezenet-{digest[:8]}.pth")
        enum = models.get_model_weights("squeezenet1_1")
        monkeypatch.setattr(enum["IMAGENET1K_V1"].value, "url", self.path.as_uri())
        self.cache = folder / "cache"

    def weights(self, name: str = "DEFAULT", classes: int = 1000) -> Path:
        return torchvision.weights(Torchvision(network="squeezenet1_1"), name, classes, str(self.cache))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_weights_are_downloaded_once(hub: Hub, name: str) -> None:
    path = hub.weights(name)
    assert path == hub.cache / "torchvision" / hub.path.name
    state = torch.load(path, weights_only=True)
    assert torch.equal(state["features.0.weight"], hub.network.features[0].weight)
    hub.path.unlink()
    assert hub.weights(name) == path


def test_damaged_weights_are_refused(hub: Hub) -> None:
    hub.path.write_bytes(b"x" * 100)
    with pytest.raises(TrainingError, match=r"cannot be downloaded \(invalid hash value .*give it with train.checkpoi"):
        hub.weights()
    assert not any(hub.cache.rglob("*.pth"))


def test_without_network_the_error_comes_within_seconds_and_says_what_to_do(hub: Hub) -> None:
    hub.path.unlink()
    with pytest.raises(TrainingError) as error:
        hub.weights()
    address = f"download {hub.path.as_uri()} elsewhere, and give it with train.checkpoint=FILE"
    assert str(error.value).endswith(f"cannot be downloaded (there is no network); {address}")


def test_weights_of_another_name_or_for_other_classes_are_refused(hub: Hub) -> None:
    with pytest.raises(ConfigError, match=r"must name weights of squeezenet1_1, got V9; torchvision has IMAGENET1K_V1"):
        hub.weights("V9")
    with pytest.raises(ConfigError, match=r"needs a task with 1000 classes, .* got 10; train the network, or give"):
        hub.weights(classes=10)
