"""A network as a .pte file of ExecuTorch for batches of one size, delegated to XNNPACK as far as it has kernels.

A file is data for the runtime: reading it executes nothing. Its format and that of XNNPACK's graphs in it are described
at https://docs.pytorch.org/executorch/stable/pte-file-format.html and in the schema that comes with the package.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantexp.formats.network import Network
from quantexp.system.errors import BenchmarkError
from quantexp.system.extras import quietly
from quantexp.tasks.inputs import Batch

METHOD = "forward"
LONGEST_REASON = 300  # characters
NOISY = ("executorch", "torch.export", "torch.fx", "root")  # of use only to their developers
SCHEMA = "schema.fbs"
FLATBUFFER_OFFSET, FLATBUFFER_SIZE = slice(10, 14), slice(14, 18)  # in the header of XNNPACK's data
CONSTANTS_OFFSET = slice(18, 22)
NOT_JSON = re.compile(r":\s*-?(?:inf|nan)\b")  # what the decoder writes for limits that do not exist

LINES = """\
import numpy as np, torch
from executorch.runtime import Runtime

inputs = [torch.from_numpy(x) for x in np.load("example_input.npz").values()]
network = Runtime.get().load_program("network.pte").load_method("forward")
logits = network.execute(inputs)[0].numpy()
print(np.abs(logits - np.load("example_output.npy")).max())
"""
ONE_EXAMPLE = "The file takes one example at a time: ExecuTorch has a file for each batch size."

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A tensor in a graph of XNNPACK: its shape, and its values if it is a constant."""

    shape: Shape
    constant: bytes | None


@dataclass(frozen=True)
class Node:
    """A node in a graph of XNNPACK: its kind as in the schema, such as XNNFullyConnected, its fields, and its tensors.

    `values` has the tensors by the name of the field that holds their number, such as `filter_id`.
    """

    kind: str
    fields: Mapping[str, Any]
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Kernel:
    """A call of an operator that is not delegated: its name, such as aten::mm, and the shapes of its tensors."""

    name: str
    shapes: tuple[Shape, ...]


Step = Kernel | tuple[Node, ...]


def write(network: nn.Module, model: bytes, batch: Batch, folder: Path) -> None:
    """Write `network.pte`: the file that a runtime executed, or one for the size of `batch`. Raises BenchmarkError."""
    content = model or exported(network, batch, "--to executorch", "use --to onnx")
    (folder / "network.pte").write_bytes(content)


def exported(network: nn.Module, batch: Batch, rule: str, repair: str) -> bytes:
    """Return `network` as a .pte file for batches of the size of `batch`.

    With a size that varies, a flatten stays outside of XNNPACK and takes the network apart.

    Args:
        network: A float network, or one with pairs of quantize and dequantize for XNNPACK; it is not changed.
        batch: Its values do not matter.
        rule: What needs the file, the beginning of an error.
        repair: What to do instead, its end.

    Raises:
        BenchmarkError: If ExecuTorch cannot export the network.
    """
    try:
        with _quiet(), torch.no_grad():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
            from executorch.exir.passes import MemoryPlanningPass
            from executorch.kernels import quantized  # noqa: F401 - for pairs that XNNPACK leaves

            program = torch.export.export(Network(network).eval(), tuple(batch))
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            # Inputs that the plan allocates would be copied in each call.
            config = ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))
            return bytes(lowered.to_executorch(config).buffer)
    except MemoryError:
        raise
    except Exception as error:  # the exporter can raise anything
        raise BenchmarkError(
            f"{rule} needs a network that ExecuTorch can export ({reason(error)}); {repair}"
        ) from error


def reason(error: Exception) -> str:
    """Return the first line of the innermost message."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:LONGEST_REASON]


def steps(pte: bytes) -> dict[tuple[int, int], Step]:
    """Return the steps of a file: calls of operators, and graphs of XNNPACK, by their chain and instruction."""
    with quietly():
        from executorch.exir._serialize._program import deserialize_pte_binary

    file = deserialize_pte_binary(pte)
    (plan,) = file.program.execution_plan
    named = file.named_data
    data = {key: named.buffers[entry.buffer_index] for key, entry in named.pte_data.items()} if named else {}
    found: dict[tuple[int, int], Step] = {}
    for chain_index, chain in enumerate(plan.chains):
        for index, instruction in enumerate(chain.instructions):
            call = instruction.instr_args
            if hasattr(call, "delegate_index"):
                place = plan.delegates[call.delegate_index].processed.index
                found[chain_index, index] = _graph(file.program.backend_delegate_data[place].data, data)
            elif hasattr(call, "op_index"):
                tensors = (getattr(plan.values[argument].val, "sizes", None) for argument in call.args)
                shapes = tuple(tuple(sizes) for sizes in tensors if sizes is not None)
                found[chain_index, index] = Kernel(plan.operators[call.op_index].name, shapes)
    return found


def _graph(data: bytes, named: Mapping[str, bytes]) -> tuple[Node, ...]:
    """Return the nodes of a graph of XNNPACK; `named` has the constants that are not in its data."""
    described, start = _described(data), int.from_bytes(data[CONSTANTS_OFFSET], "little")
    constants = [
        named.get(entry["named_key"]) or data[start + entry["offset"] :][: entry["size"]]
        for entry in described["constant_data"]
    ]
    values = {}
    for entry in described["xvalues"]:
        value = entry["xvalue_union"].get("tensor_value", entry["xvalue_union"])
        place = value["constant_buffer_idx"]
        values[value["id_out"]] = Value(tuple(value.get("dims", ())), constants[place] if place else None)
    nodes = []
    for entry in described["xnodes"]:
        fields = entry["xnode_union"]
        tensors = {name: values[number] for name, number in fields.items() if name.endswith("_id") and number in values}
        nodes.append(Node(entry["xnode_union_type"], fields, tensors))
    return tuple(nodes)


def _described(data: bytes) -> Any:
    """Return XNNPACK's data as the package's own decoder describes it in JSON."""
    with quietly():
        from executorch.exir._serialize._flatbuffer import _flatc_decompile

    begin, length = (int.from_bytes(data[place], "little") for place in (FLATBUFFER_OFFSET, FLATBUFFER_SIZE))
    schema = importlib.resources.files("executorch.backends.xnnpack.serialization").joinpath(SCHEMA).read_bytes()
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        folder = Path(scratch)
        (folder / SCHEMA).write_bytes(schema)
        (folder / "graph.bin").write_bytes(data[begin : begin + length])
        _flatc_decompile(scratch, str(folder / SCHEMA), str(folder / "graph.bin"), ["--raw-binary"])
        text = (folder / "graph.json").read_text(encoding="utf-8")
    return json.loads(NOT_JSON.sub(": null", text))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the exporter warns of and logs."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
