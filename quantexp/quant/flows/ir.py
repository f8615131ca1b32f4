"""A network that OpenVINO executes: its graph and weights are two files, which the state holds as plain bytes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantexp.formats import openvino
from quantexp.formats.onnx import NETWORK, OUTPUT
from quantexp.quant.inspection.dequantized import Call
from quantexp.quant.inspection.layers import HeldWeights
from quantexp.tasks.inputs import Batch

FILES = "files_of_openvino"  # the buffer
RECURRENT = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")  # classes of layers


@dataclass(frozen=True)
class Weight:
    """A weight of the float network: its layer, the class of the layer, and its shape."""

    layer: str
    kind: str
    shape: tuple[int, ...]


class IrNetwork(nn.Module):
    """A network of OpenVINO: float32 outputs, int8 weights where it is quantized, batches of any size.

    Args:
        files: The archive of the graph and the weights; the constants have the names of the weights they come from.
        weights: Those of the float network, by name.
        parameters: The number of its parameters, which is also that of this network.
    """

    files_of_openvino: Tensor

    def __init__(self, files: bytes, weights: Mapping[str, Weight], parameters: int) -> None:
        super().__init__()
        self.parameters_in_files = parameters
        self.weights = dict(weights)
        self.register_buffer(FILES, torch.frombuffer(bytearray(files), dtype=torch.uint8))
        self._requests: dict[int, Any] = {}
        self.eval()

    @property
    def files(self) -> bytes:
        """The archive of the graph and the weights."""
        return self.files_of_openvino.numpy().tobytes()

    def forward(self, *batch: Tensor) -> Tensor:
        count = torch.get_num_threads()
        request = self._requests.get(count)
        if request is None:
            compiled = _core().compile_model(self._read(), "CPU", _settings(count))
            request = self._requests[count] = compiled.create_infer_request()
        given = {index: tensor.detach().contiguous().numpy() for index, tensor in enumerate(batch)}
        return torch.from_numpy(request.infer(given)[OUTPUT].copy())

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy, which compiles the network anew."""
        return {**super().__getstate__(), "_requests": {}}  # type: ignore[no-untyped-call]

    def held_weights(self) -> Iterator[HeldWeights]:
        """Yield the weights of the layers that multiply: int8 or float."""
        found: dict[str, HeldWeights] = {}
        for node in self._read().get_ordered_ops():
            for value in node.inputs() if node.get_type_name() in openvino.MULTIPLYING else ():
                constant = openvino.constant(value)
                weight = self.weights.get(_name(constant))
                if weight and weight.layer not in found:
                    found[weight.layer] = _held(weight, self, constant, value)
        yield from found.values()

    def recurrent(self) -> list[str]:
        """Return the recurrent layers, which are not held: OpenVINO reshapes their weights when it reads them."""
        return list(dict.fromkeys(weight.layer for weight in self.weights.values() if weight.kind in RECURRENT))

    def weight_names(self) -> dict[str, str]:
        """Return the name of the weight of each layer."""
        return {weight.layer: name for name, weight in self.weights.items()}

    def layer_calls(self, batch: Batch) -> dict[str, list[Call]]:
        """Return the layers without their inputs and outputs, which stay within OpenVINO."""
        return {held.name: [] for held in self.held_weights()}

    def _read(self) -> Any:
        return openvino.read(_core(), self.files)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Take the stored files, which can be longer or shorter than those of the structure."""
        if isinstance(stored := state_dict.get(f"{prefix}{FILES}"), Tensor):
            self.files_of_openvino = torch.empty_like(stored)
            self._requests.clear()
        super()._load_from_state_dict(state_dict, prefix, *args)


def named(model: Any, names: Mapping[str, str]) -> None:
    """Give the weights of the nodes `names` their names in the float network again, in place."""
    for node in model.get_ops():
        if name := names.get(node.get_friendly_name()):
            constants = (openvino.constant(value) for value in node.inputs())
            for constant in (constant for constant in constants if constant is not None):
                constant.set_friendly_name(f"{NETWORK}.{name}")


def names_of_weights(model: Any) -> dict[str, str]:
    """Return the name of the weight of each node that multiplies one, by the name of the node."""
    found = {}
    for node in model.get_ops():
        for value in node.inputs() if node.get_type_name() in openvino.MULTIPLYING else ():
            if name := _name(openvino.constant(value)):
                found[node.get_friendly_name()] = name
    return found


def _name(constant: Any) -> str:
    """Return the name of the weight that a constant is, as the float network has it; empty if it is none."""
    name: str = "" if constant is None else constant.get_friendly_name()
    return name.removeprefix(f"{NETWORK}.") if name.startswith(f"{NETWORK}.") else ""


def _held(weight: Weight, network: nn.Module, constant: Any, value: Any) -> HeldWeights:
    values, scale = constant.get_data(), _scale(value)
    if scale is not None and values.dtype == np.float32 and scale.size in (1, weight.shape[0]):
        # The plugin rounds it when it compiles; no kernel takes more scales than one for each channel.
        steps = scale.reshape(-1, *[1] * (len(weight.shape) - 1))
        values = np.clip(np.rint(values.reshape(weight.shape) / steps), -128, 127).astype(np.int8)
    if values.dtype != np.int8 or scale is None:
        plain = torch.from_numpy(values.copy())
        return HeldWeights(weight.layer, weight.kind, network, plain, None, plain.dtype)
    if len(weight.shape) == 2 and scale.shape[0] == 1 < scale.size:  # a scale for each column: transposed
        values = values.T
    integers = torch.from_numpy(values.copy()).reshape(weight.shape)
    scales = torch.from_numpy(scale.reshape(-1).copy())
    scheme = "per_channel_symmetric" if scales.numel() > 1 else "per_tensor_symmetric"
    return HeldWeights(weight.layer, weight.kind, network, integers, None, torch.int8, scheme, scales)


def _scale(value: Any) -> Any:
    """Return the scale of the integers of a weight, or of those that it is rounded to; None if there is none."""
    node = value.get_source_output().get_node()
    while node.get_type_name() in openvino.PASSED_ON:
        if node.get_type_name() == "Multiply":
            return node.input(1).get_source_output().get_node().get_data()
        if node.get_type_name() == openvino.ROUNDED:
            low, high = (node.input(at).get_source_output().get_node().get_data() for at in (3, 4))
            return (high - low) / (node.get_attributes()["levels"] - 1)
        node = node.input(0).get_source_output().get_node()
    return None


def _settings(count: int) -> dict[str, Any]:
    return {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": count, "ENABLE_CPU_PINNING": False}


@functools.cache
def _core() -> Any:
    return openvino.imported().Core()
