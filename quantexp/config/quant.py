"""How precision is lowered: one option a method, with what it can lower to and what it promises.

`precisions` lists what a method can do, its own choice first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from quantexp.config.levers import OVER_TORCH_AO, Engine, Flow, Granularity, Observer, Scheme, Start
from quantexp.config.option import RESULT, WEIGHTS, Affects, Option, option
from quantexp.config.task import CalibrationSplit
from quantexp.system.errors import Mismatch


@dataclass
class Quant(Option):
    """A quantization method."""

    group: ClassVar[str] = "quant"
    precisions: ClassVar[tuple[str, ...]] = ()
    timed: ClassVar[bool] = True  # whether its latency says anything
    trains: ClassVar[bool] = False  # whether it is nothing without training
    calibrates: ClassVar[bool] = False
    precision_affects: ClassVar[Affects] = RESULT

    @property
    def packs_for(self) -> Engine | None:
        """The engine that the weights are packed for; None where nothing is packed."""
        return None


@dataclass
class NoQuant(Quant):
    """The float model; with bf16 or fp16, its weights cast to half the bytes."""

    name: ClassVar[str] = "none"
    implementation: ClassVar[str] = "quantexp.quant.methods.none"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")


@dataclass
class ByLayer(Quant):
    """A method that quantizes layers one by one: which of them, by which API and for which kernels.

    `flows` says which precisions each flow has, the method's own choice first; `levers` names the settings
    that only some flows have, and those flows. The engine is chosen only where torch.ao packs the weights.
    """

    flows: ClassVar[dict[Flow, tuple[str, ...]]] = {}
    levers: ClassVar[dict[str, tuple[Flow, ...]]] = {"engine": OVER_TORCH_AO}

    flow: Flow = option("API that quantizes", Flow.fx, affects=RESULT)
    engine: Engine | None = option(
        "kernel library that executes the layers: x86, fbgemm, onednn, qnnpack; null: x86 in flows fx and eager",
        None,
        affects=RESULT,
    )
    include: list[str] = option(
        "patterns of layer names that are quantized, as [layers.*]; none: every layer", [], affects=RESULT
    )
    exclude: list[str] = option("patterns of layer names that are left in float, as [layers.4]", [], affects=RESULT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine is None and self.flow in self.levers["engine"]:
            self.engine = Engine.x86

    @property
    def packs_for(self) -> Engine | None:
        return self.engine

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the values, a flow that this method does not have, levers that the flow lacks."""
        yield from super().faults()
        if self.flow not in list(Flow):
            return  # a wrong name is a fault already
        if self.flow not in self.flows:
            pairs = "; ".join(
                f"quant={method.name}: {', '.join(method.flows)}" for method in METHODS if issubclass(method, ByLayer)
            )
            yield Mismatch(
                f"quant.flow={self.flow} does not exist for quant={self.name}",
                f", which has {', '.join(self.flows)}. All pairs: {pairs}",
            )
            return
        for name, flows in self.levers.items():
            value, field = getattr(self, name), type(self).__dataclass_fields__[name]
            default = [] if isinstance(value, list) else field.default
            if (
                self.flow not in flows and value != default and type(value) is not str
            ):  # a wrong name is a fault already
                having = [flow for flow in flows if flow in self.flows]
                repair = f" or use quant.flow={' or '.join(having)}" if having else ""
                yield Mismatch(
                    f"quant.{name} cannot be chosen in quant.flow={self.flow}", f", got {value}; leave it out{repair}"
                )


@dataclass
class Dynamic(ByLayer):
    """Weights of Linear layers quantized beforehand, the range of their inputs found at each call."""

    name: ClassVar[str] = "dynamic"
    implementation: ClassVar[str] = "quantexp.quant.methods.dynamic"
    precisions: ClassVar[tuple[str, ...]] = ("int8", "fp16")
    flows: ClassVar[dict[Flow, tuple[str, ...]]] = {
        Flow.eager: ("int8", "fp16"),
        Flow.fx: ("int8", "fp16"),
        Flow.pt2e: ("int8",),
        Flow.torchao: ("int8",),
    }

    flow: Flow = option("API that quantizes", Flow.eager, affects=RESULT)


@dataclass
class WeightOnly(ByLayer):
    """Weights of Linear layers quantized and expanded where they are multiplied, with fp32 in int8, bf16 in int4."""

    name: ClassVar[str] = "weight_only"
    implementation: ClassVar[str] = "quantexp.quant.methods.weight_only"
    precisions: ClassVar[tuple[str, ...]] = ("int8", "int4")
    flows: ClassVar[dict[Flow, tuple[str, ...]]] = {Flow.torchao: ("int8", "int4")}

    flow: Flow = option("API that quantizes", Flow.torchao, affects=RESULT)
    group_size: int = option(
        "weights of a row that share a scale in int4: 32, 64 or 128", 32, affects=RESULT, at_least=32, at_most=128
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if 32 < self.group_size < 128 and self.group_size != 64:
            yield f"quant.group_size must be 32, 64 or 128, got {self.group_size}"


@dataclass
class Static(ByLayer):
    """Weights and activations quantized after training, with ranges seen on calibration examples."""

    name: ClassVar[str] = "static"
    implementation: ClassVar[str] = "quantexp.quant.methods.static"
    calibrates: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("int8",)
    flows: ClassVar[dict[Flow, tuple[str, ...]]] = {Flow.fx: ("int8",), Flow.eager: ("int8",), Flow.pt2e: ("int8",)}
    levers: ClassVar[dict[str, tuple[Flow, ...]]] = {
        **dict.fromkeys(("engine", "weights", "activations"), OVER_TORCH_AO),
        "dynamic": (Flow.fx,),
    }

    dynamic: list[str] = option(
        "patterns of Linear layers that get their input ranges at each call instead, as [layers.4]", [], affects=RESULT
    )
    weights: Granularity = option(
        "which weights share a scale: per_channel or per_tensor", Granularity.per_channel, affects=RESULT
    )
    observer: Observer = option("how activation ranges are chosen", Observer.histogram, affects=RESULT)
    percentile: float = option(
        "of the values that observer=percentile keeps in range, in per cent",
        99.99,
        affects=RESULT,
        above=50,
        at_most=100,
    )
    activations: Scheme = option(
        "how activation ranges lie around zero: affine or symmetric", Scheme.affine, affects=RESULT
    )
    reduce_range: bool | None = option(
        "7 bits for activations, so that sums cannot saturate; null: where the CPU needs it", None, affects=RESULT
    )
    calibration: CalibrationSplit = option(
        "split to calibrate on; test is what the lab allows, and is tagged", CalibrationSplit.train, affects=RESULT
    )
    calibration_examples: int = option("examples to calibrate on", 512, affects=RESULT, at_least=1)
    calibration_seed: int | None = option(
        "draws the calibration examples; null: seed", None, affects=RESULT, at_least=0
    )


@dataclass
class Qat(ByLayer):
    """Trained on with fake quantization in the loop, then converted to the integer kernels."""

    name: ClassVar[str] = "qat"
    implementation: ClassVar[str] = "quantexp.quant.methods.qat"
    trains: ClassVar[bool] = True
    affects: ClassVar[dict[str, Affects]] = dict.fromkeys(("flow", "engine", "include", "exclude"), WEIGHTS)
    precisions: ClassVar[tuple[str, ...]] = ("int8",)
    flows: ClassVar[dict[Flow, tuple[str, ...]]] = {Flow.fx: ("int8",), Flow.eager: ("int8",), Flow.pt2e: ("int8",)}
    levers: ClassVar[dict[str, tuple[Flow, ...]]] = dict.fromkeys(("engine", "weights", "activations"), OVER_TORCH_AO)

    weights: Granularity = option(
        "which weights share a scale: per_channel or per_tensor", Granularity.per_channel, affects=WEIGHTS
    )
    activations: Scheme = option(
        "how activation ranges lie around zero: affine or symmetric", Scheme.affine, affects=WEIGHTS
    )
    reduce_range: bool | None = option(
        "7 bits for activations, so that sums cannot saturate; null: where the CPU needs it", None, affects=WEIGHTS
    )
    start: Start = option("trained: from the float model; scratch: from fresh weights", Start.trained, affects=WEIGHTS)
    epochs: int | None = option(
        "passes; null: 1 from the trained model, train.epochs from scratch", None, affects=WEIGHTS, at_least=1
    )
    learning_rate: float | None = option(
        "step size; null: a tenth of train.learning_rate from the trained model, all of it from scratch",
        None,
        affects=WEIGHTS,
        above=0,
    )
    freeze_after: float = option(
        "share of the steps after which observers freeze", 0.5, affects=WEIGHTS, above=0, at_most=1
    )


@dataclass
class Amp(Quant):
    """Automatic mixed precision: trained from scratch under autocast, and run under it."""

    name: ClassVar[str] = "amp"
    implementation: ClassVar[str] = "quantexp.quant.methods.amp"
    precision_affects: ClassVar[Affects] = WEIGHTS
    precisions: ClassVar[tuple[str, ...]] = ("bf16", "fp16")


@dataclass
class FakeQuant(Quant):
    """Values rounded to 2 to 8 bits and computed with in float: simulated, for accuracy alone."""

    name: ClassVar[str] = "fake_quant"
    implementation: ClassVar[str] = "quantexp.quant.methods.fake_quant"
    calibrates: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("simulated",)
    timed: ClassVar[bool] = False

    weight_bits: int = option("bits of weights", 4, affects=RESULT, at_least=2, at_most=8)
    activation_bits: int = option("bits of activations", 8, affects=RESULT, at_least=2, at_most=8)
    include: list[str] = option(
        "patterns of layer names that are quantized, as [layers.*]; none: every layer", [], affects=RESULT
    )
    exclude: list[str] = option("patterns of layer names that are left in float, as [layers.4]", [], affects=RESULT)
    weights: Granularity = option(
        "which weights share a scale: per_channel or per_tensor", Granularity.per_channel, affects=RESULT
    )
    percentile: float = option(
        "of the activations that are kept in range, in per cent", 99.99, affects=RESULT, above=50, at_most=100
    )
    calibration: CalibrationSplit = option(
        "split to calibrate on; test is what the lab allows, and is tagged", CalibrationSplit.train, affects=RESULT
    )
    calibration_examples: int = option("examples to calibrate on", 512, affects=RESULT, at_least=1)
    calibration_seed: int | None = option(
        "draws the calibration examples; null: seed", None, affects=RESULT, at_least=0
    )


Selective = ByLayer | FakeQuant  # the methods whose layers can be chosen

METHODS: tuple[type[Quant], ...] = (NoQuant, Dynamic, WeightOnly, Static, Qat, Amp, FakeQuant)
