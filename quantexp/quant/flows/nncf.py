"""NNCF of OpenVINO: the network is exported to ONNX, read by OpenVINO, and quantized with calibration examples."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from quantexp.config import Engine, Static
from quantexp.formats import onnx, openvino
from quantexp.quant.engine import reduces_range
from quantexp.quant.flows.ir import IrNetwork, Weight, named, names_of_weights
from quantexp.quant.flows.working import explain_failure
from quantexp.quant.inspection.layers import held_weights, layer_of
from quantexp.quant.selection import kept_in_float
from quantexp.system import extras
from quantexp.tasks.inputs import Batch

HANDLES = "nn.Linear and nn.Conv2d"
RULE = "quant.flow=nncf needs a network that"


@dataclass
class Exported:
    """A network that OpenVINO read, the names of its weights, and the batches that it is calibrated with.

    `kept` are the nodes that stay in float.
    """

    model: Any
    parameters: int
    weights: dict[str, Weight]
    kept: list[str]
    reduces: bool
    batches: list[Any] = field(default_factory=list)


def require() -> None:
    """Check that the packages are installed. Raises ConfigError."""
    extras.require_extra("nncf", "quant.flow=nncf", "nncf", "openvino", "onnx", "onnxscript")


def prepare_static(option: Static, model: nn.Module, example: Batch, target: str) -> Exported:
    """Export `model`. `example` is one batch of inputs."""
    require()
    with explain_failure(f"{RULE} torch.onnx can export"):
        exported = onnx.exported(model.eval(), example, "quant.flow=nncf", "use another flow")
        read = openvino.read(openvino.imported().Core(), exported)
    kinds, floats = {held.name: held.kind for held in held_weights(model)}, kept_in_float(option, model)
    layers = {name: layer_of(model, name) for name, _ in model.named_parameters()}
    weights = {
        name: Weight(layers[name], kinds[layers[name]], tuple(parameter.shape))
        for name, parameter in model.named_parameters()
        if layers[name] in kinds and parameter.dim() > 1
    }
    kept = [node for node, name in names_of_weights(read).items() if layers.get(name) in floats]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Exported(read, parameters, weights, kept, reduces_range(Engine.onednn, option.reduce_range))


def calibrate(prepared: Exported, batches: Iterable[Batch]) -> None:
    """Keep the batches, in their order: NNCF runs them through the network when it quantizes it."""
    for batch in batches:
        arrays = [tensor.numpy() for tensor in batch]
        prepared.batches.append(arrays[0] if len(arrays) == 1 else tuple(arrays))


def convert(prepared: Exported, target: str) -> nn.Module:
    """Quantize the network with the batches; the result is one that OpenVINO executes, whatever the target."""
    with openvino.without_telemetry(), _quiet():
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

        names = names_of_weights(prepared.model)
        overflow = OverflowFix.ENABLE if prepared.reduces else OverflowFix.DISABLE
        with explain_failure(f"{RULE} NNCF can quantize"):
            quantized = nncf.quantize(
                prepared.model,
                nncf.Dataset(prepared.batches),
                subset_size=len(prepared.batches),
                ignored_scope=nncf.IgnoredScope(names=prepared.kept) if prepared.kept else None,
                advanced_parameters=AdvancedQuantizationParameters(overflow_fix=overflow),
            )
    named(quantized, names)
    return IrNetwork(openvino.written(quantized), prepared.weights, prepared.parameters)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop the progress that NNCF prints, and what it logs for its developers and those of torch."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
