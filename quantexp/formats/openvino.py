"""OpenVINO's form of a network, and the package itself, which is imported without its telemetry."""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from quantexp.formats import onnx
from quantexp.tasks.inputs import Batch

TELEMETRY = "openvino_telemetry"  # it reports imports and conversions to a server, and keeps an id in the user's folder
WITHOUT_TELEMETRY = f'import sys; sys.modules["{TELEMETRY}"] = None\n'  # before the lines that a process of ours runs

LINES = """\
import numpy as np
import openvino

inputs = dict(np.load("example_input.npz"))
model = openvino.compile_model("network.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
logits = model(inputs)["logits"]
print(np.abs(logits - np.load("example_output.npy")).max())
"""


GRAPH, WEIGHTS = "network.xml", "network.bin"  # in an archive
ARCHIVE = b"PK"  # its first bytes
ROUNDED = "FakeQuantize"  # NNCF leaves it at weights that are reshaped, which the plugin rounds when it compiles
PASSED_ON = (ROUNDED, "Convert", "Subtract", "Multiply", "Reshape", "Transpose", "Unsqueeze", "Squeeze")  # to the layer
CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
MULTIPLYING = ("MatMul", *CONVOLUTIONS)


def imported() -> Any:
    """Return the package openvino, imported so that it finds no telemetry and uses its own stub of it."""
    with without_telemetry():
        import openvino
    return openvino


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Let imports in this context not find the telemetry package; without it OpenVINO and NNCF report nothing."""
    modules: dict[str, Any] = sys.modules
    missing = object()
    before = modules.get(TELEMETRY, missing)
    modules[TELEMETRY] = None
    try:
        yield
    finally:
        if before is missing:
            del modules[TELEMETRY]
        else:
            modules[TELEMETRY] = before


def read(core: Any, model: bytes, shapes: Sequence[Sequence[int]] = ()) -> Any:
    """Return a model as one of OpenVINO.

    Args:
        core: OpenVINO's.
        model: An ONNX model, or the archive that `written` returns.
        shapes: Those that the inputs get, the batch size included; without them batches have any size.
    """
    if model.startswith(ARCHIVE):
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            found = core.read_model(archive.read(GRAPH), archive.read(WEIGHTS))
    else:
        found = core.read_model(model)
    if shapes:
        names = onnx.input_names(len(shapes))
        found.reshape({name: list(shape) for name, shape in zip(names, shapes, strict=True)})
    return found


def written(model: Any) -> bytes:
    """Return a model of OpenVINO as an archive of its two files, the graph and the weights."""
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        folder, content = Path(scratch), io.BytesIO()
        imported().serialize(model, str(folder / GRAPH), str(folder / WEIGHTS))
        with zipfile.ZipFile(content, "w") as archive:
            for name in (GRAPH, WEIGHTS):
                archive.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())  # without the time
    return content.getvalue()


def write(network: nn.Module, model: bytes, batch: Batch, folder: Path) -> None:
    """Write the network from its ONNX model, weights as they are. Raises BenchmarkError."""
    openvino = imported()
    found = read(openvino.Core(), model or onnx.model_of(network, batch))
    openvino.save_model(found, folder / "network.xml", compress_to_fp16=False)


def constant(value: Any) -> Any:
    """Return the node of the constant that an input of a node is computed from, None if it is no constant."""
    node = value.get_source_output().get_node()
    while node.get_type_name() in PASSED_ON:
        node = node.input(0).get_source_output().get_node()
    return node if node.get_type_name() == "Constant" else None
