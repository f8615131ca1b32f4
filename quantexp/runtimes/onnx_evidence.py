"""What ONNX Runtime really ran: its profile, read beside the graph that it optimized.

The profile has the nodes that ran, the shapes and types of their inputs, and their times. Weights that are packed for
a kernel are missing there; the optimized graph has their shapes, and their names, which lead to the layers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from quantexp.formats.onnx import NETWORK
from quantexp.results import Profile, TimeShare
from quantexp.runtimes.ran import Ran

KERNEL = "_kernel_time"  # the end of the name of an event that is the call of a kernel
PRODUCTS = (
    *("MatMul", "FusedMatMul", "TransposeMatMul", "Gemm", "FusedGemm", "QGemm", "QLinearMatMul", "MatMulInteger"),
    *("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"),
)
CONVOLUTIONS = ("Conv", "FusedConv", "QLinearConv", "ConvInteger", "NhwcFusedConv")
TRANSPOSED = ("ConvTranspose", "QLinearConvTranspose")
RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
NAMES = {"float": "fp32", "double": "fp64", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
INT8 = ("DynamicQuantizeMatMul", "DynamicQuantizeLSTM")  # whose inputs are floats
PASSED_ON = ("DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Identity")
SHOWN_SHARE = 0.005  # of the time; operators below it are omitted

Shape = Sequence[int]


def ran(events: Iterable[Mapping[str, Any]], graph: Any) -> list[Ran]:
    """Return the multiplying nodes of one call in a profile; `graph` is the optimized one."""
    nodes = {node.name: node for node in graph.node}
    made = {output: node for node in graph.node for output in node.output}
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return [found for event in events for found in _ran(event, nodes.get(_name(event)), made, shapes)]


def profile(events: Iterable[Mapping[str, Any]], batch_size: int) -> Profile:
    """Return the shares of the time by operator."""
    spent: Counter[str] = Counter()
    for event in events:
        spent[event["args"]["op_name"]] += event["dur"]
    total = sum(spent.values()) or 1
    shares = (TimeShare(name, time / total) for name, time in spent.most_common())
    return Profile(batch_size, tuple(share for share in shares if share.share >= SHOWN_SHARE))


def kernels(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the events that are calls of kernels."""
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith(KERNEL)]


def _ran(event: Mapping[str, Any], node: Any, made: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Iterator[Ran]:
    operator = event["args"]["op_name"]
    count = _macs(operator)
    if count is None or node is None:
        return
    inputs = [_value(entry) for entry in event["args"]["input_type_shape"]]
    (_, output), *_ = (_value(entry) for entry in event["args"]["output_type_shape"])
    sources = dict.fromkeys(source for name in node.input for source in _sources(name, made, shapes))
    weights = [shapes[name] for name in sources if len(shapes[name]) > 1]
    padded = node.domain == "com.microsoft.nchwc"  # channels are filled up to the width of the registers
    unknown = padded or (count is not _product and not weights)  # such as weights that are computed in each call
    precision = "int8" if operator in INT8 else NAMES.get(inputs[0][0], inputs[0][0])
    names = tuple(name.removeprefix(f"{NETWORK}.") for name in sources)
    yield Ran(operator, precision, None if unknown else count(node, inputs[0][1], output, weights), names)


def _name(event: Mapping[str, Any]) -> str:
    return str(event["name"]).removesuffix(KERNEL)


def _value(entry: Mapping[str, Shape]) -> tuple[str, Shape]:
    ((kind, shape),) = entry.items()
    return kind, shape


def _sources(name: str, made: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Yield the name of the constant that a value comes from, if it is one."""
    while name not in shapes:
        node = made.get(name)
        if node is None or node.op_type not in PASSED_ON:
            return
        name = node.input[0]
    yield name


def _macs(operator: str) -> Callable[[Any, Shape, Shape, Sequence[Shape]], int] | None:
    """Return what counts the multiply-accumulates of an operator, None if it multiplies no matrices."""
    for names, count in ((PRODUCTS, _product), (CONVOLUTIONS, _convolution), (TRANSPOSED, _transposed)):
        if operator in names:
            return count
    return _recurrent if operator in RECURRENT else None


def _product(node: Any, inputs: Shape, output: Shape, weights: Sequence[Shape]) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * inputs[-2 if transposed else -1]


def _convolution(node: Any, inputs: Shape, output: Shape, weights: Sequence[Shape]) -> int:
    return math.prod(output) * math.prod(weights[0][1:])  # (channels out, channels in of a group, kernel)


def _transposed(node: Any, inputs: Shape, output: Shape, weights: Sequence[Shape]) -> int:
    return math.prod(inputs) * math.prod(weights[0][1:])  # (channels in, channels out of a group, kernel)


def _recurrent(node: Any, inputs: Shape, output: Shape, weights: Sequence[Shape]) -> int:
    steps, batch, _ = inputs
    return steps * batch * sum(math.prod(weight) for weight in weights if len(weight) == 3)
