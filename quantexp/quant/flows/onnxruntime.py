"""ONNX Runtime's own quantizer: the float network is exported to ONNX, and its operators are quantized there.

See https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import ByLayer, Dynamic, Engine, Granularity, Observer, Scheme, Static
from quantexp.formats.onnx import NETWORK, exported_model, input_names, modules_of, strip
from quantexp.quant.engine import reduces_range
from quantexp.quant.flows.onnx_model import RECURRENT, OnnxLayer, OnnxModel, with_layers
from quantexp.quant.flows.working import explain_failure
from quantexp.quant.inspection.layers import HeldWeights, held_weights
from quantexp.quant.inspection.watch import Watch
from quantexp.quant.selection import kept_in_float
from quantexp.system import extras
from quantexp.tasks.inputs import Batch, size

HANDLES = "nn.Linear, nn.Conv1d and nn.Conv2d"
DYNAMICALLY = "nn.Linear and nn.LSTM"
DYNAMIC_OPERATORS = ["MatMul", "Gemm", "LSTM"]
IN_FLOAT = (  # as in other flows, or for lack of an int8 kernel
    *("Gather", "LayerNormalization", "InstanceNormalization", "EmbedLayerNormalization"),
    "ConvTranspose",
)
MULTIPLYING = ("MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN")
RULE = "quant.flow=onnxruntime needs a network that torch.onnx can export and ONNX Runtime can quantize"


class Calibrated(nn.Module):
    """A float network that collects the examples of its calibration."""

    def __init__(self, option: Static, model: nn.Module, example: Batch) -> None:
        super().__init__()
        self.option, self.model, self.example = option, model, example
        self.batches: list[Batch] = []

    def forward(self, *batch: Tensor) -> Tensor:
        self.batches.append(batch)
        logits: Tensor = self.model(*batch)
        return logits


def require() -> None:
    """Check that the packages are installed. Raises ConfigError."""
    extras.require_extra("onnxruntime", "quant.flow=onnxruntime", "onnxruntime", "onnx", "onnxscript")


def prepare_static(option: Static, model: nn.Module, example: Batch, target: str) -> nn.Module:
    """Return a network that keeps the examples it is called with."""
    return Calibrated(option, model.eval(), example)


def calibrate(prepared: Calibrated, batches: Iterable[Batch]) -> None:
    """Keep the batches; the quantizer itself runs them."""
    prepared.batches.extend(batches)


def convert(prepared: Calibrated, target: str) -> nn.Module:
    """Quantize the exported network, with the ranges of the examples that were kept."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    option, names = prepared.option, input_names(len(prepared.example))
    methods = {Observer.percentile: CalibrationMethod.Percentile, Observer.histogram: CalibrationMethod.Entropy}
    settings = {
        "ActivationSymmetric": option.activations is Scheme.symmetric,
        "CalibMovingAverage": option.observer is Observer.moving_average,
        "CalibPercentile": option.percentile,
    }

    def quantize(source: str, target: str, kept: list[str]) -> None:
        """Write the model of the file `source` to `target`, the nodes `kept` in float."""
        quantize_static(
            source,
            target,
            _Reader(
                {name: value.numpy() for name, value in zip(names, batch, strict=True)} for batch in prepared.batches
            ),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[name for name in {**QLinearOpsRegistry, **QDQRegistry} if name not in IN_FLOAT],
            per_channel=option.weights is Granularity.per_channel,
            reduce_range=reduces_range(Engine.onednn, option.reduce_range),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            calibrate_method=methods.get(option.observer, CalibrationMethod.MinMax),
            extra_options=settings,
        )

    return _quantized(option, prepared.model, prepared.example, quantize)


def dynamic(option: Dynamic, model: nn.Module, precision: str, example: Batch, target: str) -> nn.Module:
    """Quantize the Linear and LSTM layers of `model` dynamically."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def quantize(source: str, target: str, kept: list[str]) -> None:
        """Write the model of the file `source` to `target`, the nodes `kept` in float."""
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=DYNAMIC_OPERATORS,
            per_channel=True,
            reduce_range=reduces_range(Engine.onednn, None),
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*kept, *(f"{name}_MatMul" for name in kept)],  # as it calls a Gemm that it takes apart
        )

    return _quantized(option, model.eval(), example, quantize)


class _Reader:
    """The calibration examples, as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterable[dict[str, Any]]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def _quantized(
    option: ByLayer, model: nn.Module, example: Batch, quantize: Callable[[str, str, list[str]], None]
) -> OnnxModel:
    """Export the network, let `quantize` write the quantized model, and return that with its layers."""
    require()
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with explain_failure(RULE), _quiet(), tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        paths = [str(Path(scratch) / name) for name in ("float.onnx", "prepared.onnx", "int8.onnx")]
        exported = exported_model(model, example)
        modules = modules_of(exported)
        strip(exported)
        onnx.save(exported, paths[0])
        quant_pre_process(paths[0], paths[1])  # folds constants, such as the weights of an LSTM
        graph = onnx.load(paths[1]).graph
        layers = list(_layers(model, graph, modules))
        kept = kept_in_float(option, model)
        left = [name for layer, names in layers for name in names if layer.name in kept]
        quantize(paths[1], paths[2], left)
        quantized = onnx.load(paths[2])
        strip(quantized)
        watch = Watch()
        with watch:
            model(*example)
        macs = sum(watch.macs.values()) // size(example)
        return OnnxModel(with_layers(quantized, [layer for layer, _ in layers], macs), len(example))


def _layers(model: nn.Module, graph: Any, modules: dict[str, str]) -> Iterator[tuple[OnnxLayer, list[str]]]:
    """Yield the layers of the float network that the graph has, each with the names of its nodes."""
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    paths = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=False)}
    for held in held_weights(model):
        own = {f"{NETWORK}.{paths[id(value)]}" for value in (*held.weights, *held.biases) if id(value) in paths}
        nodes = [node for node in graph.node if own & set(node.input) or _is_of(node, held, modules)]
        weights, biases = _constants_of(nodes, held, constants, own)
        if weights:
            transposed = any(node.op_type == "MatMul" and node.input[1] in weights for node in nodes)
            directions = constants[weights[0]][0] if held.kind == RECURRENT else 1
            layer = OnnxLayer(held.name, held.kind, weights, biases, transposed, directions)
            yield layer, [node.name for node in nodes]


def _is_of(node: Any, held: HeldWeights, modules: dict[str, str]) -> bool:
    """Return whether a node multiplies in the module of the layer, whose weight may have lost its name."""
    return node.op_type in MULTIPLYING and modules.get(node.name) == held.name


def _constants_of(
    nodes: list[Any], held: HeldWeights, constants: dict[str, list[int]], own: set[str]
) -> tuple[list[str], list[str]]:
    """Return the names of the weights and biases of a layer in the graph."""
    if held.kind == RECURRENT:  # its inputs are x, the weights of x, those of the hidden state, and biases
        inputs, hidden, biases = (
            [node.input[index] for node in nodes if node.input[index] in constants] for index in (1, 2, 3)
        )
        return [*hidden, *inputs], biases
    used = dict.fromkeys(name for node in nodes for name in node.input if name in constants)
    count = held.weight.numel()
    weights = [name for name in used if _size(constants[name]) == count and (name in own or len(constants[name]) > 1)]
    biases = [name for name in used if name in own and name not in weights]
    return weights[:1], biases


def _size(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the quantizer prints, and logs with the root logger, such as advice that is followed already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
