"""A network as an ONNX model for batches of any size: float operators, and Q/DQ pairs where it is quantized.

A model is data: reading it executes nothing.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantexp.formats.network import Network
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch

OPSET = 21
FILE = "network.onnx"
OUTPUT = "logits"
NETWORK = "network"  # the attribute that holds the network, and so the first part of the names of its weights
SCOPES = "pkg.torch.onnx.name_scopes"  # the field of a node with the modules that it is in
LONGEST_REASON = 300  # characters
NOISY = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch.fx")  # of use only to their developers
WEIGHTED = ("Gemm", "Conv", "ConvTranspose")  # the operators with a bias: inputs, weights, bias


LINES = """\
import numpy as np
import onnxruntime

inputs = dict(np.load("example_input.npz"))
session = onnxruntime.InferenceSession("network.onnx")
(logits,) = session.run(None, inputs)
print(np.abs(logits - np.load("example_output.npy")).max())
"""


def input_names(count: int) -> tuple[str, ...]:
    """Return the names of the inputs of a model: `x`, or `x0`, `x1`, ... for several."""
    return ("x",) if count == 1 else tuple(f"x{index}" for index in range(count))


def exported(network: nn.Module, batch: Batch, rule: str, repair: str) -> bytes:
    """Return `network` as an ONNX model.

    Args:
        network: A float network, or one with pairs of quantize and dequantize; it is not changed.
        batch: At least two examples; their values do not matter.
        rule: What needs the model, the beginning of an error.
        repair: What to do instead, its end.

    Raises:
        BenchmarkError: If torch cannot export the network.
    """
    try:
        model = exported_model(network, batch)
        _quantize_biases(model)
        strip(model)
        written: bytes = model.SerializeToString()
    except MemoryError:
        raise
    except Exception as error:  # the exporter can raise anything
        raise BenchmarkError(
            f"{rule} needs a network that torch.onnx can export ({reason(error)}); {repair}"
        ) from error
    return written


def write(network: nn.Module, model: bytes, batch: Batch, folder: Path) -> None:
    """Write `network.onnx`: the model that a runtime executed, or the network exported now. Raises BenchmarkError."""
    (folder / FILE).write_bytes(model or model_of(network, batch))


def model_of(network: nn.Module, batch: Batch) -> bytes:
    """Return the ONNX model of a network, which may be one already. Raises BenchmarkError."""
    own: bytes = getattr(network, "onnx", b"")
    return own or exported(network, batch, "ONNX", "use another format")


def exported_model(network: nn.Module, batch: Batch) -> Any:
    """Return `network` as the exporter gives it, a ModelProto; it can raise anything."""
    dynamic = ({0: torch.export.Dim.DYNAMIC},) * len(batch)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            Network(network).eval(),
            tuple(batch),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            opset_version=OPSET,
            input_names=list(input_names(len(batch))),
            output_names=[OUTPUT],
            verbose=False,
        )
    if program is None:
        raise TypeError("torch.onnx.export returned nothing")
    return program.model_proto


def modules_of(model: Any) -> dict[str, str]:
    """Return the module of the network that each node comes from, by the name of the node, before `strip`."""
    found = {}
    for node in model.graph.node:
        for scopes in (one.value for one in node.metadata_props if one.key == SCOPES):
            path = ast.literal_eval(scopes)[-2:-1]
            found[node.name] = "".join(path).removeprefix(NETWORK).removeprefix(".")
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the exporter warns of, logs and prints."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reason(error: Exception) -> str:
    """Return the innermost message: the exporter wraps it several times, with advice to developers."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:LONGEST_REASON]


def _quantize_biases(model: Any) -> None:
    """Give the layers between dequantized inputs and weights an int32 bias of scale inputs · weights, in place.

    Else a kernel of integers cannot take the bias, and ONNX Runtime leaves the last layer in float. See
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    nodes = []
    for node in model.graph.node:
        scales = _scales(node, made, constants)
        if scales is not None:
            name, bias = f"{node.name}.bias", numpy_helper.to_array(constants[node.input[2]]).astype(np.float64)
            scale = np.broadcast_to(scales, bias.shape).astype(np.float32)
            rounded = np.rint(bias / scale).astype(np.int32)
            model.graph.initializer.extend(
                [
                    numpy_helper.from_array(rounded, f"{name}_int32"),
                    numpy_helper.from_array(scale, f"{name}_scale"),
                    numpy_helper.from_array(np.zeros(bias.shape, dtype=np.int32), f"{name}_zero_point"),
                ]
            )
            parts = [f"{name}_{part}" for part in ("int32", "scale", "zero_point")]
            nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}_dequantized"], f"{name}_dq", axis=0))
            node.input[2] = f"{name}_dequantized"
        nodes.append(node)
    copied = [_copy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copied)
    used = {name for node in copied for name in node.input}
    kept = [_copy(tensor) for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def strip(model: Any) -> None:
    """Remove what the exporter writes for its developers, in place: it is much, and has paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _scales(node: Any, made: dict[str, Any], constants: dict[str, Any]) -> Any:
    """Return the scales of a bias, per tensor or channel; None if the layer is not between dequantized values."""
    from onnx import numpy_helper

    if node.op_type not in WEIGHTED or len(node.input) < 3 or node.input[2] not in constants:
        return None
    sources: Sequence[Any] = [made.get(name) for name in node.input[:2]]
    if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
        return None
    if any(source.input[1] not in constants for source in sources):
        return None  # a scale that is computed in each call
    if any(attribute.name in ("alpha", "beta") and attribute.f != 1.0 for attribute in node.attribute):
        return None
    inputs, weights = (numpy_helper.to_array(constants[source.input[1]]).astype("float64") for source in sources)
    bias, scales = numpy_helper.to_array(constants[node.input[2]]), inputs * weights
    if scales.size not in (1, bias.size) or not (abs(bias) < 2**31 * scales).all():  # too large for int32
        return None
    return scales
