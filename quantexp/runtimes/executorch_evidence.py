"""What ExecuTorch really ran: the events that it traced in a call, read beside the graphs in the file it executed.

XNNPACK names the kernel of each operator that ran, with the types of what it multiplies, such as `Fully Connected (NC,
QS8, QC8W) GEMM`. The graph in the file has the shapes, and the weights, whose bytes lead to the layers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantexp.formats.executorch import Kernel, Node, Shape, Step
from quantexp.quant.inspection.layers import HeldWeights
from quantexp.results import Operator, Profile, TimeShare

KERNELS = {  # the kernels of each kind of node that multiplies, by the beginning of their names
    "XNNFullyConnected": "Fully Connected",
    "XNNConv2d": "Convolution",
    "XNNDepthwiseConv2d": "Convolution",
    "XNNConvTranspose2d": "Deconvolution",
    "XNNBatchMatrixMultiply": "Batch Matrix Multiply",
}
LAYOUTS = ("NC", "NHWC", "NCHW", "ND", "NHC")
PRECISIONS = {  # of a product, by the type of what it multiplies first
    **dict.fromkeys(("QS8", "QU8", "QC8", "QD8", "QP8", "QDU8"), "int8"),
    **dict.fromkeys(("F32", "PF32"), "fp32"),
    **dict.fromkeys(("F16", "PF16"), "fp16"),
    "BF16": "bf16",
}
INT8_WEIGHTS = ("QS8", "QU8", "QC8", "QC8W", "QS8W")
PORTABLE = "portable"  # products outside of XNNPACK
UNKNOWN = "ExecuTorch"  # what runs products that are in no known step
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::linear", "aten::baddbmm", "aten::convolution")
SHOWN_SHARE = 0.005  # of the time; operators below it are omitted


@dataclass(frozen=True)
class Event:
    """An event of a call: what ran, in which step, and how long, in nanoseconds.

    `kernel` is that of XNNPACK, None for the step itself.
    """

    step: tuple[int, int]
    name: str
    kernel: str | None
    duration: int


@dataclass(frozen=True)
class Ran:
    """A product that ran: its operator, precision and multiply-accumulates, and the digest of its constant weight."""

    operator: str
    precision: str
    macs: int
    weight: str | None


def events(blocks: Iterable[Any]) -> list[list[Event]]:
    """Return the events of each traced call; `blocks` are those of an etdump."""
    return [
        [
            Event(
                (found.chain_index, found.instruction_id),
                found.name or "",
                found.delegate_debug_id_str or None,
                found.end_time - found.start_time,
            )
            for event in block.events
            if (found := event.profile_event) is not None
        ]
        for block in blocks
        if block.name == "Execute"
    ]


def ran(call: Sequence[Event], steps: Mapping[tuple[int, int], Step]) -> list[Ran]:
    """Return the products of a call. One whose kernel is not known counts as float."""
    found: list[Ran] = []
    for place in dict.fromkeys(event.step for event in call):
        step = steps.get(place)
        if isinstance(step, Kernel):
            if macs := _portable(step):
                found.append(Ran(f"{PORTABLE} {step.name.removeprefix('aten::')}", "fp32", macs, None))
        elif step is not None:
            named = [event.kernel for event in call if event.step == place and event.kernel]
            found += _delegated(step, [name for name in named if name.startswith(tuple(KERNELS.values()))])
    return found


def operators(products: Iterable[Ran], examples: int, macs: int) -> tuple[Operator, ...]:
    """Return the operators of a call on `examples`, with their multiply-accumulates for one of them.

    Args:
        products: What ran.
        examples: The size of the batch.
        macs: The multiply-accumulates of the network for the batch; what is missing counts as float.
    """
    calls: Counter[tuple[str, str]] = Counter()
    total: defaultdict[tuple[str, str], int] = defaultdict(int)
    for product in products:
        calls[product.operator, product.precision] += 1
        total[product.operator, product.precision] += product.macs
    if (rest := macs - sum(total.values())) >= examples:
        calls[UNKNOWN, "fp32"], total[UNKNOWN, "fp32"] = 1, rest
    return tuple(Operator(*key, count, total[key] // examples) for key, count in calls.items())


def in_float(layers: Iterable[HeldWeights], products: Sequence[Ran]) -> dict[str, str]:
    """Return the layers with int8 weights whose products did not all run in int8, each with what ran instead."""
    left = {}
    for held in layers:
        if held.dtype is not torch.int8 or held.weight.dim() < 2:
            continue
        own = set(digests(held.weight))
        of_layer = [product for product in products if product.weight in own]
        others = [product for product in of_layer if product.precision != "int8"]
        if others or not of_layer:
            how = f"in {others[0].operator} ({others[0].precision})" if others else "in no int8 kernel that is known"
            left[held.name] = f"its weight is int8, but ExecuTorch multiplied {how}"
    return left


def profile(calls: Iterable[Sequence[Event]], steps: Mapping[tuple[int, int], Step], batch_size: int) -> Profile:
    """Return the shares of the time by kernel of XNNPACK and by other operator."""
    spent: Counter[str] = Counter()
    for event in (event for call in calls for event in call):
        step = steps.get(event.step)
        if event.kernel is not None:
            spent[_kernel(event.kernel)] += event.duration
        elif isinstance(step, Kernel) and event.name == "OPERATOR_CALL":
            spent[f"{PORTABLE} {step.name.removeprefix('aten::')}"] += event.duration
    total = sum(spent.values()) or 1
    shares = (TimeShare(name, time / total) for name, time in spent.most_common())
    return Profile(batch_size, tuple(share for share in shares if share.share >= SHOWN_SHARE))


def digests(weight: Tensor) -> Iterator[str]:
    """Yield the digests of a weight in each order that XNNPACK takes: channels last, and depthwise."""
    orders = {tuple(range(weight.dim()))}
    if weight.dim() > 2:
        place = tuple(range(2, weight.dim()))
        orders |= {(0, *place, 1), (1, *place, 0)}
    for order in orders:
        yield _digest(weight.detach().permute(order).contiguous().numpy().tobytes())


def _delegated(nodes: Sequence[Node], kernels: Sequence[str]) -> Iterator[Ran]:
    """Yield the products of a graph, each with the kernel that ran; both lists have the order of execution."""
    multiplying = [node for node in nodes if node.kind in KERNELS]
    matching = len(multiplying) == len(kernels) and all(
        name.startswith(_expected(node)) for node, name in zip(multiplying, kernels, strict=True)
    )
    for index, node in enumerate(multiplying):
        weight = node.values.get("filter_id")
        digest = _digest(weight.constant) if weight and weight.constant is not None else None
        name = _kernel(kernels[index]) if matching else f"{KERNELS[node.kind]} of unknown kernel"
        yield Ran(name, _precision(name) if matching else "fp32", _macs(node), digest)


def _expected(node: Node) -> tuple[str, ...]:
    """Return how the names of the kernels that can run a node begin. A pointwise convolution can run as a product."""
    kernel = (node.fields.get("kernel_height"), node.fields.get("kernel_width"))
    pointwise = node.kind == "XNNConv2d" and kernel == (1, 1)
    return (KERNELS[node.kind], KERNELS["XNNFullyConnected"]) if pointwise else (KERNELS[node.kind],)


def _kernel(name: str) -> str:
    """Return the name of a kernel without its number among those of its name."""
    return name.partition(" #")[0]


def _precision(kernel: str) -> str:
    """Return the precision of a product, from the types in the name of its kernel; with float weights it is float."""
    found = re.search(r"\((.*?)\)", kernel)
    types = [part.strip() for part in found.group(1).split(",") if part.strip() not in LAYOUTS] if found else []
    precision = PRECISIONS.get(types[0], "fp32") if types else "fp32"
    return "fp32" if precision == "int8" and types[-1] not in INT8_WEIGHTS else precision


def _macs(node: Node) -> int:
    """Return the multiply-accumulates of a node, from the shapes in the file."""
    output, fields = node.values["output_id"].shape, node.fields
    if node.kind == "XNNBatchMatrixMultiply":
        return math.prod(output) * node.values["input1_id"].shape[-1]
    if node.kind == "XNNFullyConnected":
        return math.prod(output) * math.prod(node.values["filter_id"].shape) // output[-1]
    kernel = fields["kernel_height"] * fields["kernel_width"]
    if node.kind == "XNNConvTranspose2d":
        return math.prod(node.values["input1_id"].shape) * int(kernel * fields["group_output_channels"])
    return math.prod(output) * int(kernel * fields["group_input_channels"])


def _portable(kernel: Kernel) -> int:
    """Return the multiply-accumulates of a call of a portable operator: the last of its tensors is the result."""
    if kernel.name not in PRODUCTS or len(kernel.shapes) < 3:
        return 0
    added = kernel.name in ("aten::addmm", "aten::baddbmm")
    left: Shape = kernel.shapes[1 if added else 0]
    result = math.prod(kernel.shapes[-1])
    if kernel.name != "aten::convolution":
        return result * left[-1]
    return result * math.prod(kernel.shapes[1][1:])  # (channels out, channels in of a group, kernel)


def _digest(values: bytes) -> str:
    return hashlib.blake2b(values, digest_size=16).hexdigest()
