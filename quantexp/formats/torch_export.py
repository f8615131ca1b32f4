"""A network as a program of torch.export: `network.pt2`."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from quantexp.formats import onnx
from quantexp.formats.network import Network
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.inputs import Batch

LINES = """\
import numpy as np
import torch, torchao.quantization.pt2e  # with the operators quantize and dequantize

inputs = [torch.from_numpy(x) for x in np.load("example_input.npz").values()]
network = torch.export.load("network.pt2").module()
logits = network(*inputs).detach().numpy()
print(np.abs(logits - np.load("example_output.npy")).max())
"""
WARNING = "Load only files that you wrote: `torch.export.load` can execute code that is in a file."


def write(network: nn.Module, model: bytes, batch: Batch, folder: Path) -> None:
    """Export the network for batches of any size and write it. Raises BenchmarkError."""
    shapes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in batch),)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(Network(network).eval(), batch, dynamic_shapes=shapes)
            torch.export.save(program, folder / "network.pt2")
    except MemoryError:
        raise
    except Exception as error:  # torch can raise anything
        raise BenchmarkError(
            f"--to torch_export needs a network that torch.export can export ({onnx.reason(error)}); use --to onnx"
        ) from error
