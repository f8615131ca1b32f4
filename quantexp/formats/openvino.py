"""A network as OpenVINO's intermediate representation: `network.xml` and `network.bin`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from quantexp.formats import onnx
from quantexp.tasks.inputs import Batch

LINES = """\
import numpy as np
import openvino

inputs = dict(np.load("example_input.npz"))
model = openvino.compile_model("network.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
logits = model(inputs)["logits"]
print(np.abs(logits - np.load("example_output.npy")).max())
"""


def write(network: nn.Module, model: bytes, batch: Batch, folder: Path) -> None:
    """Write the network from its ONNX model, weights as they are. Raises BenchmarkError."""
    import openvino

    read = openvino.Core().read_model(model or onnx.model_of(network, batch))
    openvino.save_model(read, folder / "network.xml", compress_to_fp16=False)
