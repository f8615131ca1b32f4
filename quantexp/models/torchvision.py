"""The networks of torchvision for classification, built without weights, for images of 3 channels.

Where torchvision has the network in a form for quantization in eager mode, the network has it as `quantizable()`.
What size of image a network takes is found by trying: a forward pass on the meta device needs no memory and little
time. The weights that torchvision has for a network are downloaded into the cache, and read as a state dict.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.hub import HASH_REGEX, download_url_to_file
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models.densenet import DenseNet
from torchvision.models.mnasnet import MNASNet

from quantexp.config import Torchvision
from quantexp.results import InputSpec
from quantexp.system.cache import cache_folder, locked
from quantexp.system.errors import ConfigError, TrainingError
from quantexp.tasks.files import reachable, stall_limit

log = logging.getLogger(__name__)

CHANNELS = 3
LARGEST = 1024  # pixels; the sides that are tried for an error message
SIZED = {"vit": "image_size", "maxvit": "input_size"}  # the argument with the size of the images, by family
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
OLD_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")  # norm.1 in files, norm1 in DenseNet
WITH_AUXILIARY = ("googlenet", "inception_v3")  # classifiers for training only; they are left out


class _Mnasnet(MNASNet):  # type: ignore[misc]
    """MNASNet that also takes a state dict without a version, as files of safetensors are."""

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *others: Any) -> None:
        super()._load_from_state_dict(state, prefix, {"version": self._version, **metadata}, *others)


class _ParametersOnMeta(TorchFunctionMode):
    """Allocates parameters on the meta device, and computes what sizes follow from as usual."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **place})


def build(model: Torchvision, inputs: Sequence[InputSpec], classes: int) -> nn.Module:
    """Build the network with fresh weights. Raises ConfigError if it does not take images of this shape."""
    shape = inputs[0].measured
    _check(model.network, shape)
    settings = _settings(model, shape, classes)
    network = _on_meta(model.network, settings) if _wants_meta() else _built(model.network, settings)
    if f"quantized_{model.network}" in models.list_models(module=models.quantization):
        network.quantizable = partial(_quantizable, model.network, settings)  # type: ignore[assignment]
    return network


def weights(model: Torchvision, name: str, classes: int, cache_dir: str | None) -> Path:
    """Return the file with weights that torchvision has for a network, from the cache or downloaded into it.

    Args:
        model: Names the network.
        name: The name of the weights, as IMAGENET1K_V1 or DEFAULT.
        classes: The number of classes of the task, which must be that of the weights.
        cache_dir: The cache folder; None for the default one.

    Raises:
        ConfigError: If there are no such weights, or they are for another number of classes.
        TrainingError: If they cannot be downloaded.
    """
    known = models.get_model_weights(model.network)
    if name not in known.__members__:
        raise ConfigError(
            f"train.checkpoint=torchvision:NAME must name weights of {model.network}, got {name}; "
            f"torchvision has {', '.join(member.name for member in known)}"
        )
    chosen, outputs = known[name], len(known[name].meta["categories"])
    if classes != outputs:
        raise ConfigError(
            f"train.checkpoint=torchvision needs a task with {outputs} classes, those of the weights of "
            f"{model.network}, got {classes}; train the network, or give weights for {classes} classes with "
            "train.checkpoint=FILE"
        )
    path = cache_folder(cache_dir, "torchvision") / Path(chosen.url).name
    with locked(path.with_suffix(".lock"), f"another process is downloading {path.name}"):
        if not path.is_file():
            _download(chosen.url, path)
    return path


def _download(url: str, path: Path) -> None:
    """Download weights; their name ends in the beginning of their SHA-256, which is checked. Raises TrainingError."""
    rule = f"torchvision's weights are not in the cache {path.parent} and cannot be downloaded"
    repair = f"download {url} elsewhere, and give it with train.checkpoint=FILE"
    if not reachable([url]):
        raise TrainingError(f"{rule} (there is no network); {repair}")
    log.info("download  %s into %s", path.name, path.parent)
    digest = HASH_REGEX.search(path.name)
    try:
        with stall_limit():
            download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
    except Exception as error:  # the errors of torch.hub are not documented
        raise TrainingError(f"{rule} ({' '.join(str(error).split())}); {repair}") from error


def _translate(state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Adapt a state dict of torchvision's files to the network, in place: old names, and auxiliary classifiers."""
    for name in list(state):
        if name.removeprefix(prefix).startswith(AUXILIARY):
            del state[name]
        elif old := OLD_NAME.fullmatch(name):
            state[old[1] + old[2]] = state.pop(name)


def _settings(model: Torchvision, shape: Sequence[int], classes: int) -> dict[str, Any]:
    """Return what torchvision's function is called with."""
    settings: dict[str, Any] = {"weights": None, "num_classes": classes}
    if model.network in WITH_AUXILIARY:
        settings |= {"aux_logits": False, "init_weights": True, "transform_input": bool(model.transform_input)}
    return settings | _size(model.network, shape[-1])


def _size(network: str, side: int) -> dict[str, Any]:
    argument = SIZED.get(network.partition("_")[0])
    return {argument: (side, side) if argument == "input_size" else side} if argument else {}


def _built(network: str, settings: dict[str, Any]) -> nn.Module:
    built: nn.Module = models.get_model_builder(network)(**settings)
    if isinstance(built, MNASNet):
        built.__class__ = _Mnasnet
    if network in WITH_AUXILIARY or isinstance(built, DenseNet):
        built._register_load_state_dict_pre_hook(_translate)  # type: ignore[no-untyped-call]
    return built


def _wants_meta() -> bool:
    return torch.get_default_device().type == "meta"


def _on_meta(network: str, settings: dict[str, Any]) -> nn.Module:
    """Build a network on the meta device; torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), _ParametersOnMeta():
        return _built(network, settings).to("meta")


def _quantizable(network: str, settings: dict[str, Any]) -> nn.Module:
    """Return torchvision's form of a network for quantization in eager mode, in float, with fresh weights.

    torchvision puts ReLU in the place of ReLU6, which is another function; it is put back.
    """
    quantizable: nn.Module = models.get_model_builder(f"quantized_{network}")(**settings, quantize=False)
    for name, module in _on_meta(network, settings).named_modules():
        if type(module) is nn.ReLU6:
            quantizable.set_submodule(name, nn.ReLU6())
    return quantizable


@lru_cache
def _check(network: str, shape: tuple[int, ...]) -> None:
    """Check that a network takes images of this shape. Raises ConfigError, which names the next side that works."""
    got = "x".join(map(str, shape))
    what = f"model=torchvision model.network={network}"
    if len(shape) != CHANNELS or shape[0] != CHANNELS:
        raise ConfigError(f"{what} takes images of {CHANNELS} channels, got {got}; convert them")
    _, height, width = shape
    if _is_sized(network) and height != width:
        raise ConfigError(f"{what} takes square images, got {got}; crop or resize them")
    if _takes(network, height, width):
        return
    side = _next_side(network, min(height, width))
    repair = f"the next side that works is {side} pixels" if side else "use another network"
    raise ConfigError(f"{what} does not take images of {got}; {repair}")


def _next_side(network: str, side: int) -> int | None:
    """Return the smallest larger side of square images that a network takes, None if none up to LARGEST is."""
    if _is_sized(network):  # multiples of some side; most others are refused before the network is built
        return next((larger for larger in range(side + 1, LARGEST + 1) if _takes(network, larger, larger)), None)
    built, low, high = _tried(network, side), side, LARGEST
    if not _runs(built, high, high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _runs(built, middle, middle) else (middle, high)
    return high


def _is_sized(network: str) -> bool:
    return bool(_size(network, LARGEST))


def _takes(network: str, height: int, width: int) -> bool:
    """Return whether a network takes images of this size, by trying."""
    try:
        return _runs(_tried(network, height), height, width)
    except (ValueError, AssertionError):  # it is not even built for this size
        return False


def _tried(network: str, side: int) -> nn.Module:
    return _on_meta(network, _settings(Torchvision(network=network), (CHANNELS, side, side), 2)).eval()


@torch.no_grad()
def _runs(built: nn.Module, height: int, width: int) -> bool:
    try:
        outputs: Tensor = built(torch.empty(2, CHANNELS, height, width, device="meta"))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return outputs.shape == (2, 2)
