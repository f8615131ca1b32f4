"""What the settings of the methods are chosen from."""

from __future__ import annotations

from enum import StrEnum


class Flow(StrEnum):
    """The API that quantizes."""

    fx = "fx"
    eager = "eager"
    pt2e = "pt2e"
    torchao = "torchao"
    onnxruntime = "onnxruntime"
    nncf = "nncf"

    @property
    def implementation(self) -> str:
        """The module that does it."""
        return f"quantexp.quant.flows.{self.value}"


OF_ONE_RUNTIME = (
    Flow.onnxruntime,
    Flow.nncf,
)  # whose networks only one runtime executes, so that they are used only where asked for
OVER_TORCH_AO = (Flow.fx, Flow.eager)  # whose end torch has announced


class Engine(StrEnum):
    """The kernel library that executes int8; which of them exist depends on the machine."""

    x86 = "x86"
    fbgemm = "fbgemm"
    onednn = "onednn"
    qnnpack = "qnnpack"


class Granularity(StrEnum):
    """Which weights share a scale: those of one output channel, or all of a layer."""

    per_channel = "per_channel"
    per_tensor = "per_tensor"


class Observer(StrEnum):
    """How the range of activations is chosen from what calibration shows."""

    histogram = "histogram"
    minmax = "minmax"
    moving_average = "moving_average"
    percentile = "percentile"


class Scheme(StrEnum):
    """How a range is laid on integers: as it is, or as wide below zero as above."""

    affine = "affine"
    symmetric = "symmetric"


class Start(StrEnum):
    """The weights that quantization-aware training begins with."""

    trained = "trained"
    scratch = "scratch"
