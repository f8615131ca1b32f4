"""A stored network written for other programs: a file of their format, an example, and a README with how to load it.

What is written is checked in a process of its own, by the lines of the README.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from quantexp.config import OF_ONE_RUNTIME, RUNTIMES, Flow
from quantexp.formats import executorch as pte
from quantexp.formats import onnx
from quantexp.formats import openvino as ir
from quantexp.formats import torch_export as pt2
from quantexp.quant.inspection.layers import held_weights
from quantexp.quant.inspection.watch import NAMES
from quantexp.storage import stored
from quantexp.storage.recipe import Recipe, read
from quantexp.system import extras
from quantexp.system.errors import ModelError
from quantexp.tasks.inputs import Batch, examples

EXAMPLES = 4
INPUTS, OUTPUT, README = "example_input.npz", "example_output.npy", "README.md"
TOLERANCE = {True: 0.05, False: 1e-4}  # of the largest output, for int8 and for float: another CPU rounds differently
SECONDS = 300  # the most that the check may take


@dataclass(frozen=True)
class Format:
    """A format: the packages that read it, the lines that execute it, and what writes it into a folder.

    `write` takes the network, the file that its runtime executed or an empty one, a batch, and the folder.
    `target` is the form of quantized networks that can be written; `examples` are those of the batch.
    """

    packages: tuple[str, ...]
    extra: str
    lines: str
    write: Callable[[nn.Module, bytes, Batch, Path], None]
    target: str = "qdq"
    warning: str = ""
    examples: int = EXAMPLES


FORMATS = {
    "onnx": Format(("onnxruntime",), "onnxruntime", onnx.LINES, onnx.write),
    "openvino": Format(("openvino",), "openvino", ir.LINES, ir.write),
    "executorch": Format(("executorch", "torch"), "executorch", pte.LINES, pte.write, "xnnpack", pte.ONE_EXAMPLE, 1),
    "torch_export": Format(("torch", "torchao"), "", pt2.LINES, pt2.write, warning=pt2.WARNING),
}


WRITTEN_OF = {Flow.onnxruntime: ("onnx", "openvino"), Flow.nncf: ("openvino",)}  # what such networks can be written as


def export(folder: Path, target: str, out: Path, facts: Sequence[str], *, trust: bool = False) -> float:
    """Write a stored network in the format `target`, and check what was written; return the largest difference.

    Args:
        folder: The stored network.
        target: A name of FORMATS.
        out: The folder to write into; it must be new or empty.
        facts: What is known of the network, such as its accuracy, a sentence each.
        trust: Also build networks and tasks that are not part of quantexp.

    Raises:
        ModelError: If the network cannot be written in this format, or what was written computes something else.
        ConfigError: If the packages that write it are missing.
        BenchmarkError: If torch cannot export the network.
    """
    form = FORMATS[target]
    if form.extra:
        writers = ("onnx", "onnxscript") if form.target == "qdq" else ()
        extras.require_extra(form.extra, f"--to {target}", *form.packages, *writers)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"--out must be a folder that is new or empty, {out} is not; choose another one")
    recipe, network = read(folder), stored.load(folder, trust=trust).network
    _require_writable(network, recipe, target, form)
    batch = examples(recipe.inputs, form.examples)
    model = recipe.exported if recipe.files.get("exported") == onnx.FILE else b""
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:  # what fails the check is not left behind
        made = Path(scratch)
        form.write(network, model, batch, made)
        write_example(network, batch, made)
        for name in (recipe.files[role] for role in ("vocabulary", "tokenizer") if role in recipe.files):
            shutil.copy(folder / name, made / name)
        (made / README).write_text(_readme(recipe, form, made, facts), encoding="utf-8")
        difference = _checked(network, made)
        shutil.copytree(made, out, dirs_exist_ok=True)
    return difference


def _require_writable(network: nn.Module, recipe: Recipe, target: str, form: Format) -> None:
    """Check that the format can hold the network: integer kernels of PyTorch are no operators of another program."""
    floats = recipe.quant["name"] == "none" and recipe.precision == "fp32"
    graph = recipe.target == form.target and recipe.quant["name"] not in ("none", "amp")
    flow = recipe.quant.get("flow")
    if flow in OF_ONE_RUNTIME and target not in WRITTEN_OF[Flow(flow)]:
        others = " or ".join(f"--to {name}" for name in WRITTEN_OF[Flow(flow)])
        raise ModelError(f"--to {target} writes networks of PyTorch, quant.flow={flow} made this one; use {others}")
    if not floats and not graph:
        name = f"quant={recipe.quant['name']} precision={recipe.precision}{f' quant.flow={flow}' if flow else ''}"
        runtime = next(one.name for one in RUNTIMES if one.target == form.target and one.file)
        raise ModelError(
            f"--to {target} writes float networks, and those that were quantized for {runtime}; this one ({name} "
            f"runtime={recipe.runtime}) was not: run it again with runtime={runtime}"
        )


def write_example(network: nn.Module, batch: Batch, out: Path) -> None:
    """Write a batch and what the network computes for it; the file that was written must compute the same."""
    names = onnx.input_names(len(batch))
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in zip(names, batch, strict=True)}
    np.savez(out / INPUTS, **arrays)
    with torch.no_grad():
        np.save(out / OUTPUT, network(*batch).numpy())


def _readme(recipe: Recipe, form: Format, out: Path, facts: Sequence[str]) -> str:
    names = onnx.input_names(len(recipe.inputs))
    inputs = [
        f"| `{name}` | {spec.name} | {spec.dtype} | {', '.join(['batch', *map(str, spec.measured)])} | {_range(spec)} |"
        for name, spec in zip(names, recipe.inputs, strict=True)
    ]
    network, quant, task = map(_settings, (recipe.model, recipe.quant, recipe.task))
    labels = ", ".join(f"{index}: {name}" for index, name in enumerate(recipe.class_names))
    files = sorted(path.name for path in out.iterdir())
    parts = [
        f"# {recipe.model['name']}, {recipe.precision}",
        f"Network: {network}.",
        f"Quantization: {quant}.",
        *facts,
        "## Inputs",
        "\n".join(["| name | meaning | dtype | shape | values |", "| --- | --- | --- | --- | --- |", *inputs]),
        f"They are prepared as by the task ({task or 'none'}), as {recipe.kind}. In Python, "
        "`quantexp.load(RUN_ID)` takes raw inputs.",
        "## Output",
        f"`logits`, float32, of shape (batch, {recipe.classes}); the class is the index of the largest."
        + (f" Classes: {labels}." if labels else ""),
        "## Load",
        f"    pip install numpy {' '.join(form.packages)}",
        f"```python\n{form.lines}```",
        "It prints the largest difference from the recorded output: close to 0, up to rounding on another CPU.",
        *([form.warning] if form.warning else []),
        "## Files",
        "\n".join(f"- `{name}`: {(out / name).stat().st_size:,} bytes" for name in files),
    ]
    return "\n\n".join(parts) + "\n"


def _settings(option: Mapping[str, Any]) -> str:
    """Return the settings of an option that have a value, without the paths of this machine."""
    return ", ".join(f"{key}={value}" for key, value in option.items() if key != "path" and value not in (None, [], ""))


def _range(spec: Any) -> str:
    if spec.low is None and spec.high is None:
        return "any"
    return f"{'' if spec.low is None else f'{spec.low:g}'} to {'' if spec.high is None else f'{spec.high:g}'}"


def _checked(network: nn.Module, out: Path) -> float:
    """Run the lines of the README in a new process; return the difference that it prints. Raises ModelError."""
    (lines,) = re.findall(r"```python\n(.*?)```", (out / README).read_text(encoding="utf-8"), re.DOTALL)
    command = [sys.executable, "-I", "-W", "ignore", "-c", ir.WITHOUT_TELEMETRY + lines]
    try:
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"the exported file must be loaded within {SECONDS} s by the lines of its {README}; it was not"
        ) from error
    expected = torch.from_numpy(np.load(out / OUTPUT))
    quantized = any(NAMES.get(held.dtype) == "int8" for held in held_weights(network))
    try:
        difference = float(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        difference = float("nan")
    most = TOLERANCE[quantized] * float(expected.abs().max())
    if done.returncode or not difference <= most:
        reason = (done.stderr.strip().splitlines() or [f"a difference of {difference:g}"])[-1][:300]
        raise ModelError(
            f"the exported file must give the outputs of the network up to {most:.2g}, in a process of its own that "
            f"runs the lines of its {README}; it did not: {reason}"
        )
    return difference
