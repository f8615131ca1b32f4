"""What OpenVINO really runs: the graph that its CPU plugin executes.

Each node of that graph names its kernel, and has the shapes and types of its inputs. A weight keeps the name that it
has in the ONNX model, unless it was moved or folded into another constant; then the names of the nodes that a node was
made of lead to it in the model as it was read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from quantexp.formats.onnx import NETWORK
from quantexp.formats.openvino import constant
from quantexp.results import Profile, TimeShare
from quantexp.runtimes.ran import Ran

NAMES = {"f32": "fp32", "f64": "fp64", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
UNKNOWN = "unknown"  # the precision of a kernel that does not tell it
CHANGED = "/Dequantization"  # what the plugin appends to the name of a layer whose scale it moved
EXECUTED = "EXECUTED"  # the status of a node in the profile
SHOWN_SHARE = 0.005  # of the time; operators below it are omitted

Shape = Sequence[int]
Count = Callable[[Sequence[Shape], Shape], int]


def ran(executed: Any, read: Any) -> list[Ran]:
    """Return the multiplying nodes that run in a call.

    Args:
        executed: The graph that runs, of a compiled model.
        read: The model that it was compiled from.
    """
    products = dict(_products(read))
    nodes = [(node, {key: value.value for key, value in node.get_rt_info().items()}) for node in executed.get_ops()]
    known = [(node, facts) for node, facts in nodes if facts["layerType"] in KERNELS]
    fused = [(node, facts) for node, facts in nodes if facts["layerType"] not in KERNELS]
    found = [_layer(node, facts, products) for node, facts in known]
    for _, facts in known:
        for name in _made_of(facts):
            products.pop(name, None)
    return [*found, *_fused(fused, products)]


def profile(calls: Iterable[Iterable[Any]], batch_size: int) -> Profile:
    """Return the shares of the time by operator; a call has the profile of each of its nodes."""
    spent: Counter[str] = Counter()
    for nodes in calls:
        for node in nodes:
            if node.status.name == EXECUTED:
                spent[node.node_type] += node.real_time.total_seconds()
    total = sum(spent.values()) or 1.0
    shares = (TimeShare(name, time / total) for name, time in spent.most_common())
    return Profile(batch_size, tuple(share for share in shares if share.share >= SHOWN_SHARE))


def _layer(node: Any, facts: Mapping[str, str], products: Mapping[str, tuple[int, tuple[str, ...]]]) -> Ran:
    """Return a node whose own shapes tell its multiply-accumulates."""
    inputs, output = [_shape(value) for value in node.inputs()], _shape(node.outputs()[0])
    constants = [value.get_source_output().get_node().get_friendly_name() for value in node.inputs()[1:]]
    weights = [_own(name) for name in constants if name.startswith(f"{NETWORK}.")]
    weights += [name for part in _made_of(facts) for name in products.get(part, (0, ()))[1]]
    count = KERNELS[facts["layerType"]]
    return Ran(_operator(facts), _precision(node, facts), count(inputs, output), tuple(dict.fromkeys(weights)))


def _fused(
    nodes: Iterable[tuple[Any, Mapping[str, str]]], products: dict[str, tuple[int, tuple[str, ...]]]
) -> Iterator[Ran]:
    """Yield the nodes that were made of several, products among them, whose kernel is generated.

    Integers at the ends of such a node do not tell how it multiplies inside.
    """
    for _, facts in nodes:
        parts = [products.pop(name) for name in _made_of(facts) if name in products]
        if parts:
            precision = _kernel(facts)
            weights = tuple(name for _, names in parts for name in names)
            macs = sum(count for count, _ in parts)
            yield Ran(_operator(facts), UNKNOWN if precision == "int8" else precision, macs, weights)


def _precision(node: Any, facts: Mapping[str, str]) -> str:
    """Return the precision of a kernel: int8 only if both factors and the kernel itself have it."""
    precision = _kernel(facts)
    factors = [NAMES.get(value.get_element_type().to_string()) for value in node.inputs()[:2]]
    return precision if precision != "int8" or factors == ["int8", "int8"] else UNKNOWN


def _kernel(facts: Mapping[str, str]) -> str:
    """Return the precision in the name of a kernel, such as jit_avx2_I8."""
    return NAMES.get(facts["primitiveType"].rpartition("_")[2].lower(), UNKNOWN)


def _operator(facts: Mapping[str, str]) -> str:
    return f"{facts['layerType']}.{facts['primitiveType']}"


def _made_of(facts: Mapping[str, str]) -> list[str]:
    """Return the names of the nodes that a node was made of, as the model that was read has them."""
    parts = (name.partition(CHANGED)[0] for name in facts["originalLayersNames"].split(","))
    return list(dict.fromkeys(parts))


def _products(read: Any) -> Iterator[tuple[str, tuple[int, tuple[str, ...]]]]:
    """Yield the multiplying nodes of a model by name, with their multiply-accumulates and weights."""
    for node in read.get_ops():
        if count := OPERATIONS.get(node.get_type_name()):
            inputs, output = [_shape(value) for value in node.inputs()], _shape(node.outputs()[0])
            sources = (_source(value) for value in node.inputs())
            weights = tuple(name for name in sources if name is not None)
            yield node.get_friendly_name(), (count(inputs, output), weights)


def _source(value: Any) -> str | None:
    """Return the constant of the exported network that a value is computed from, None if there is no such one."""
    node = constant(value)
    name: str = "" if node is None else node.get_friendly_name()
    return _own(name) if name.startswith(f"{NETWORK}.") else None


def _own(name: str) -> str:
    """Return the name of a weight in the network that was exported."""
    return name.removeprefix(f"{NETWORK}.")


def _shape(value: Any) -> Shape:
    """Return the shape of an input or output; it is known, as the model has one batch size."""
    return [dimension.get_length() for dimension in value.get_partial_shape()]


def _product(inputs: Sequence[Shape], output: Shape) -> int:
    rows = output[-2] if len(output) > 1 else 1  # the first factor may be transposed
    return math.prod(output) * (math.prod(inputs[0][-2:]) // rows)


def _convolution(inputs: Sequence[Shape], output: Shape) -> int:
    return math.prod(output) * (math.prod(inputs[1]) // output[1])  # (groups,) channels out, in, kernel


def _transposed(inputs: Sequence[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * (math.prod(inputs[1]) // inputs[0][1])  # (groups,) channels in, out, kernel


def _recurrent(inputs: Sequence[Shape], output: Shape) -> int:
    weight, hidden, _ = inputs[-3:]  # then the biases
    return math.prod(inputs[0][:-1]) * (math.prod(weight) + math.prod(hidden))


KERNELS: dict[str, Count] = {
    "FullyConnected": _product,
    "FullyConnectedCompressed": _product,
    "FullyConnectedQuantized": _product,
    "FullyConnectedQuantizedLegacy": _product,
    "MatMul": _product,
    "Convolution": _convolution,
    "Deconvolution": _transposed,
    "RNNSeq": _recurrent,
    "RNNCell": _recurrent,
}
OPERATIONS: dict[str, Count] = {
    "MatMul": _product,
    "Convolution": _convolution,
    "GroupConvolution": _convolution,
    "ConvolutionBackpropData": _transposed,
    "GroupConvolutionBackpropData": _transposed,
    "LSTMSequence": _recurrent,
    "GRUSequence": _recurrent,
    "RNNSequence": _recurrent,
}
