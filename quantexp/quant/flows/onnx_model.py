"""An ONNX model as a network: what other tools than torch quantized.

It is executed by ONNX Runtime without any optimization, so that every operator of the model computes as it is written:
in float between pairs of quantize and dequantize. Runtimes are compared with that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.formats.onnx import NETWORK, OUTPUT, input_names
from quantexp.quant.flows.working import without_known_warnings
from quantexp.quant.inspection.layers import HeldWeights

LAYERS, MACS = "quantexp.layers", "quantexp.macs"  # the fields of the model's metadata
TURNED = "_Transposed"  # in the name of a weight that ONNX Runtime transposed
QUANTIZED = "_quantized"  # at the end of the name of a weight that it quantized
ENDINGS = (QUANTIZED, f"{TURNED}{QUANTIZED}", TURNED)
RECURRENT = "LSTM"  # the only recurrent layer that is quantized
TORCH_GATES = (0, 2, 3, 1)  # where the gates of an LSTM of torch (i, f, g, o) stand in ONNX (i, o, f, g)


@dataclass(frozen=True)
class OnnxLayer:
    """A layer of the float network: its name, its class, and the names of its weights and biases in the float model.

    With `transposed` the model holds the weight transposed. `directions` are those of a recurrent layer.
    """

    name: str
    kind: str
    weights: Sequence[str]
    biases: Sequence[str]
    transposed: bool = False
    directions: int = 1


class OnnxModel(nn.Module):
    """The network in an ONNX model, which is the only thing that its state holds.

    Args:
        model: The model, with its layers in the metadata (see `with_layers`).
        inputs: How many inputs it has.
    """

    packs_weights = True

    def __init__(self, model: bytes, inputs: int) -> None:
        super().__init__()
        self.onnx = model
        self.inputs = inputs
        self._session: Any = None
        self.eval()

    def forward(self, *batch: Tensor) -> Tensor:
        if self._session is None:
            self._session = _unoptimized(self.onnx)
        names = input_names(self.inputs)
        arrays = {name: value.contiguous().numpy() for name, value in zip(names, batch, strict=True)}
        (logits,) = self._session.run([OUTPUT], arrays)
        return torch.from_numpy(logits)

    @property
    def macs(self) -> int:
        """The multiply-accumulates of the float network for one example."""
        import onnx

        (found,) = (one.value for one in onnx.load_from_string(self.onnx).metadata_props if one.key == MACS)
        return int(found)

    def held_weights(self) -> Iterator[HeldWeights]:
        """Yield the weights of the layers, int8 or float, in the shapes of the float network."""
        layers, constants = _read(self.onnx)
        for layer in layers:
            with without_known_warnings():
                first, *more = (
                    _weight(name, layer, constants, direction)
                    for name in layer.weights
                    for direction in range(layer.directions)
                )
            biases = [torch.from_numpy(_array(_held(name, constants), constants)) for name in layer.biases]
            scheme = str(first.qscheme()).removeprefix("torch.") if first.is_quantized else None
            bias = biases[0] if biases and not more else None
            yield HeldWeights(
                layer.name,
                layer.kind,
                self,
                first,
                bias,
                first.dtype,
                scheme,
                more=tuple(more),
                more_biases=() if bias is not None else tuple(biases),
            )

    def weight_names(self) -> dict[str, str]:
        """Return the name of the first weight of each layer in the model, without that of the network."""
        layers, constants = _read(self.onnx)
        return {layer.name: _held(layer.weights[0], constants).removeprefix(f"{NETWORK}.") for layer in layers}

    def layer_calls(self, batch: tuple[Tensor, ...]) -> dict[str, list[Any]]:
        """Return nothing: what a layer takes and gives is not visible in the model."""
        return {}

    def get_extra_state(self) -> Tensor:
        """Return the model as bytes."""
        return torch.frombuffer(bytearray(self.onnx), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the model from bytes."""
        self.onnx, self._session = state.numpy().tobytes(), None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}


def with_layers(model: Any, layers: Sequence[OnnxLayer], macs: int) -> bytes:
    """Return a ModelProto as bytes, with its layers and the multiply-accumulates for one example in the metadata."""
    del model.metadata_props[:]
    for key, value in ((LAYERS, json.dumps([asdict(layer) for layer in layers])), (MACS, str(macs))):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    written: bytes = model.SerializeToString()
    return written


def _unoptimized(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _read(model: bytes) -> tuple[list[OnnxLayer], dict[str, Any]]:
    """Return the layers of a model, and its constants by name."""
    import onnx

    read = onnx.load_from_string(model)
    (listed,) = (one.value for one in read.metadata_props if one.key == LAYERS)
    constants = {tensor.name: tensor for tensor in read.graph.initializer}
    return [OnnxLayer(**layer) for layer in json.loads(listed)], constants


def _held(name: str, constants: Mapping[str, Any]) -> str:
    """Return the name under which the model holds a weight: as it was, or quantized."""
    return next((f"{name}{ending}" for ending in ENDINGS if f"{name}{ending}" in constants), name)


def _array(name: str, constants: Mapping[str, Any]) -> Any:
    from onnx import numpy_helper

    return numpy_helper.to_array(constants[name]).copy()


def _weight(name: str, layer: OnnxLayer, constants: Mapping[str, Any], direction: int) -> Tensor:
    """Return a weight as torch holds it: in the order of its gates, with its scales if it is quantized."""
    held = _held(name, constants)
    weight = torch.from_numpy(_array(held, constants))
    if layer.kind == RECURRENT:
        weight = weight[direction]
    if not held.endswith(QUANTIZED):
        return _as_in_torch(weight, layer, turned=TURNED in held)
    stem = held.removesuffix(QUANTIZED)
    scale, zero_point = (torch.from_numpy(_array(f"{stem}{part}", constants)) for part in ("_scale", "_zero_point"))
    if layer.kind == RECURRENT:
        scale, zero_point = scale[direction], zero_point[direction]
    scale, zero_point = scale.flatten().double(), zero_point.flatten().long()
    rows = _as_in_torch(weight, layer, turned=TURNED in held)
    if scale.numel() == 1:
        return torch._make_per_tensor_quantized_tensor(rows, float(scale), int(zero_point))
    if layer.kind == RECURRENT:
        scale, zero_point = (_in_order(values) for values in (scale, zero_point))
    return torch._make_per_channel_quantized_tensor(rows, scale, zero_point, 0)


def _as_in_torch(weight: Tensor, layer: OnnxLayer, *, turned: bool) -> Tensor:
    if layer.kind == RECURRENT:  # transposed if it is quantized
        return _in_order(weight.T if weight.dtype is torch.int8 else weight).contiguous()
    return (weight.T if layer.transposed is not turned else weight).contiguous()


def _in_order(rows: Tensor) -> Tensor:
    """Return the rows of the gates of an LSTM in the order of torch."""
    gates = rows.chunk(4)
    return torch.cat([gates[index] for index in TORCH_GATES])
