"""OpenVINO's form of a network, and the package itself, which is imported without its telemetry."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from quantexp.formats import onnx

TELEMETRY = "openvino_telemetry"  # it reports imports and conversions to a server, and keeps an id in the user's folder


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


def read(core: Any, model: bytes, shapes: Sequence[Sequence[int]]) -> Any:
    """Return an ONNX model as one of OpenVINO, with inputs of these shapes, the batch size included."""
    found = core.read_model(model)
    found.reshape({name: list(shape) for name, shape in zip(onnx.input_names(len(shapes)), shapes, strict=True)})
    return found
