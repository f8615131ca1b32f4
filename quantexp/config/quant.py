"""The quantization methods: one option each.

`precisions` lists the precisions that a method has, its default first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from quantexp.config.levers import OF_ONE_RUNTIME, OVER_TORCH_AO, Engine, Flow, Granularity, Observer, Scheme, Start
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
    def learns(self) -> bool:
        """Whether it changes the weights by training, which needs labels."""
        return self.trains

    @property
    def packs_for(self) -> Engine | None:
        """The engine that the weights are packed for; None where nothing is packed."""
        return None


@dataclass
class NoQuant(Quant):
    """No quantization: the float network; with bf16 or fp16, its weights cast to half the bytes."""

    name: ClassVar[str] = "none"
    implementation: ClassVar[str] = "quantexp.quant.methods.none"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")


@dataclass
class ByLayer(Quant):
    """A method that quantizes layers one by one: which layers, by which API, for which kernels.

    `flows` has the precisions of each flow, the default first; `levers` the settings that only some flows have,
    with those flows. There is an engine to choose only where torch.ao packs the weights.
    """

    flows: ClassVar[dict[Flow, tuple[str, ...]]] = {}
    levers: ClassVar[dict[str, tuple[Flow, ...]]] = {"engine": OVER_TORCH_AO}
    of_int8: ClassVar[tuple[str, ...]] = ()  # the settings that mean nothing in another precision

    flow: Flow | None = option(
        "API that quantizes; null: the one that quantizes the most of the network, the first of those that do",
        None,
        affects=RESULT,
    )
    engine: Engine | None = option(
        "library of int8 kernels: x86, fbgemm, onednn, qnnpack; null: x86 in flows fx and eager",
        None,
        affects=RESULT,
    )
    include: list[str] = option(
        "patterns of the layers to quantize, as [layers.*]; none: every layer", [], affects=RESULT
    )
    exclude: list[str] = option("patterns of the layers to keep in float, as [layers.4]", [], affects=RESULT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine is None and self.flow in self.levers.get("engine", ()):
            self.engine = Engine.x86

    @property
    def packs_for(self) -> Engine | None:
        return self.engine

    @classmethod
    def portable_flows(cls) -> dict[Flow, tuple[str, ...]]:
        """Return the flows whose networks more than one runtime executes, with their precisions."""
        return {flow: precisions for flow, precisions in cls.flows.items() if flow not in OF_ONE_RUNTIME}

    def candidates(self, precision: str | None = None) -> tuple[Flow, ...]:
        """Return the flows to choose from: `flow`, or all that have the precision and the levers that are set."""
        if self.flow is not None:
            return (self.flow,)
        return tuple(flow for flow in self.possible(precision) if flow not in OF_ONE_RUNTIME)

    def possible(self, precision: str | None = None) -> tuple[Flow, ...]:
        """Return all flows that have the precision and the levers that are set, those of one runtime too."""
        needed = [flows for name, flows in self.levers.items() if self._is_set(name)]
        return tuple(
            flow
            for flow, precisions in self.flows.items()
            if precision in (None, *precisions) and all(flow in flows for flows in needed)
        )

    def faults_of(self, precision: str) -> Iterator[str]:
        """Yield the settings that mean nothing in a precision."""
        for name in self.of_int8 if precision != "int8" else ():
            if self._is_set(name):
                rule = f"quant.{name} is not supported by precision={precision}"
                yield Mismatch(rule, f", got {getattr(self, name)}; leave it out or use precision=int8")

    def _is_set(self, name: str) -> bool:
        """Return whether a lever has another value than its default; a wrong name is a fault already."""
        value, field = getattr(self, name), type(self).__dataclass_fields__[name]
        default = [] if isinstance(value, list) else field.default
        return value != default and type(value) is not str

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the values, a flow that this method does not have, levers that the flow lacks."""
        yield from super().faults()
        if self.flow is None:
            if not self.candidates():
                levers = " and ".join(f"quant.{name}" for name in self.levers if self._is_set(name))
                yield Mismatch(f"{levers} cannot be chosen together", ": no flow has all of them; leave one out")
            return
        if self.flow not in list(Flow):
            return  # a wrong name is a fault already
        if self.flow not in self.flows:
            pairs = "; ".join(
                f"quant={method.name}: {', '.join(method.flows)}" for method in METHODS if issubclass(method, ByLayer)
            )
            yield Mismatch(
                f"quant.flow={self.flow} is not supported by quant={self.name}",
                f", which has {', '.join(self.flows)}. All pairs: {pairs}",
            )
            return
        for name, flows in self.levers.items():
            if self.flow not in flows and self._is_set(name):
                having = [flow for flow in flows if flow in self.flows]
                repair = f" or use quant.flow={' or '.join(having)}" if having else ""
                yield Mismatch(
                    f"quant.{name} cannot be chosen in quant.flow={self.flow}",
                    f", got {getattr(self, name)}; leave it out{repair}",
                )


@dataclass
class Dynamic(ByLayer):
    """Weights of Linear and recurrent layers quantized beforehand, the ranges of their inputs found at each call."""

    name: ClassVar[str] = "dynamic"
    implementation: ClassVar[str] = "quantexp.quant.methods.dynamic"
    precisions: ClassVar[tuple[str, ...]] = ("int8", "fp16")
    flows: ClassVar[dict[Flow, tuple[str, ...]]] = {
        Flow.eager: ("int8", "fp16"),
        Flow.fx: ("int8", "fp16"),
        Flow.pt2e: ("int8",),
        Flow.torchao: ("int8",),
        Flow.onnxruntime: ("int8",),
    }
    levers: ClassVar[dict[str, tuple[Flow, ...]]] = dict.fromkeys(("engine", "weights", "embeddings"), OVER_TORCH_AO)
    of_int8: ClassVar[tuple[str, ...]] = ("weights", "embeddings")

    weights: Granularity | None = option(
        "which weights share a scale: per_channel or per_tensor; null: per_tensor in flows eager and fx, as in torch, "
        "and per_channel in the others, which have no choice",
        None,
        affects=RESULT,
    )
    embeddings: bool = option(
        "also store the weights of embeddings in int8, with a scale for each row", False, affects=RESULT
    )

    @property
    def granularity(self) -> Granularity:
        """Which weights share a scale, in the flow that is used."""
        if self.weights is not None:
            return self.weights
        return Granularity.per_tensor if self.flow in OVER_TORCH_AO else Granularity.per_channel


@dataclass
class WeightOnly(ByLayer):
    """Only the weights of Linear layers quantized: int8 weights multiply with fp32, int4 weights with bf16."""

    name: ClassVar[str] = "weight_only"
    implementation: ClassVar[str] = "quantexp.quant.methods.weight_only"
    precisions: ClassVar[tuple[str, ...]] = ("int8", "int4")
    flows: ClassVar[dict[Flow, tuple[str, ...]]] = {Flow.torchao: ("int8", "int4")}

    flow: Flow | None = option("API that quantizes", Flow.torchao, affects=RESULT)
    group_size: int = option(
        "int4: how many weights of a row share a scale: 32, 64 or 128", 32, affects=RESULT, at_least=32, at_most=128
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if 32 < self.group_size < 128 and self.group_size != 64:
            yield f"quant.group_size must be 32, 64 or 128, got {self.group_size}"


@dataclass
class Static(ByLayer):
    """Weights and activations quantized after training, with ranges from calibration examples."""

    name: ClassVar[str] = "static"
    implementation: ClassVar[str] = "quantexp.quant.methods.static"
    calibrates: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("int8",)
    flows: ClassVar[dict[Flow, tuple[str, ...]]] = dict.fromkeys(
        (Flow.fx, Flow.eager, Flow.pt2e, Flow.onnxruntime, Flow.nncf), ("int8",)
    )
    levers: ClassVar[dict[str, tuple[Flow, ...]]] = {
        "engine": OVER_TORCH_AO,
        **dict.fromkeys(("observer", "percentile"), (Flow.fx, Flow.eager, Flow.pt2e, Flow.onnxruntime)),
        **dict.fromkeys(("weights", "activations"), (*OVER_TORCH_AO, Flow.onnxruntime)),
        "dynamic": (Flow.fx,),
    }

    dynamic: list[str] = option(
        "patterns of the Linear layers to quantize dynamically instead, as [layers.4]", [], affects=RESULT
    )
    weights: Granularity = option(
        "which weights share a scale: per_channel or per_tensor", Granularity.per_channel, affects=RESULT
    )
    observer: Observer = option("how the ranges of activations are chosen", Observer.histogram, affects=RESULT)
    percentile: float = option(
        "percentage of the values that observer=percentile keeps in range",
        99.99,
        affects=RESULT,
        above=50,
        at_most=100,
    )
    activations: Scheme = option(
        "ranges of activations: affine, or symmetric around zero", Scheme.affine, affects=RESULT
    )
    reduce_range: bool | None = option(
        "7 bits for activations, or for weights in pt2e outside of eager execution, so that sums cannot overflow; "
        "null: where the kernels need it",
        None,
        affects=RESULT,
    )
    calibration: CalibrationSplit = option(
        "split of the calibration examples: train, or test, which is tagged", CalibrationSplit.train, affects=RESULT
    )
    calibration_examples: int = option("number of calibration examples", 512, affects=RESULT, at_least=1)
    calibration_seed: int | None = option(
        "seed of the calibration examples; null: the seed of the run", None, affects=RESULT, at_least=0
    )


@dataclass
class Qat(ByLayer):
    """Quantization-aware training: trained with fake quantization in the loop, then converted."""

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
        "ranges of activations: affine, or symmetric around zero", Scheme.affine, affects=WEIGHTS
    )
    reduce_range: bool | None = option(
        "7 bits for activations, or for weights in pt2e outside of eager execution, so that sums cannot overflow; "
        "null: where the kernels need it",
        None,
        affects=WEIGHTS,
    )
    start: Start = option(
        "trained: start from the float network; scratch: from new weights", Start.trained, affects=WEIGHTS
    )
    epochs: int | None = option(
        "passes over the training split; null: 1 from the trained network, train.epochs from scratch",
        None,
        affects=WEIGHTS,
        at_least=1,
    )
    learning_rate: float | None = option(
        "null: train.learning_rate / 10 from the trained network, train.learning_rate from scratch",
        None,
        affects=WEIGHTS,
        above=0,
    )
    freeze_after: float = option(
        "share of the steps after which the ranges are kept", 0.5, affects=WEIGHTS, above=0, at_most=1
    )


@dataclass
class Amp(Quant):
    """Automatic mixed precision: trained from scratch under autocast, and executed under autocast."""

    name: ClassVar[str] = "amp"
    implementation: ClassVar[str] = "quantexp.quant.methods.amp"
    precision_affects: ClassVar[Affects] = WEIGHTS
    precisions: ClassVar[tuple[str, ...]] = ("bf16", "fp16")


@dataclass
class FakeQuant(Quant):
    """Values rounded to 1 to 8 bits and computed with in float: a simulation, which says nothing of speed or size."""

    name: ClassVar[str] = "fake_quant"
    implementation: ClassVar[str] = "quantexp.quant.methods.fake_quant"
    calibrates: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("simulated",)
    timed: ClassVar[bool] = False

    weight_bits: int = option("bits of weights", 4, affects=RESULT, at_least=1, at_most=8)
    activation_bits: int = option("bits of activations", 8, affects=RESULT, at_least=1, at_most=8)
    train: bool = option(
        "train the float network further with the rounding in the loop", False, affects=WEIGHTS, unchanged=False
    )
    epochs: int | None = option(
        "passes over the training split with quant.train=true, from the float network; null: 1",
        None,
        affects=WEIGHTS,
        unchanged=None,
        at_least=1,
    )
    learning_rate: float | None = option(
        "with quant.train=true; null: train.learning_rate", None, affects=WEIGHTS, unchanged=None, above=0
    )
    include: list[str] = option(
        "patterns of the layers to quantize, as [layers.*]; none: every layer", [], affects=RESULT
    )
    exclude: list[str] = option("patterns of the layers to keep in float, as [layers.4]", [], affects=RESULT)
    weights: Granularity = option(
        "which weights share a scale: per_channel or per_tensor", Granularity.per_channel, affects=RESULT
    )
    percentile: float = option(
        "percentage of the activations that are kept in range", 99.99, affects=RESULT, above=50, at_most=100
    )
    calibration: CalibrationSplit = option(
        "split of the calibration examples: train, or test, which is tagged", CalibrationSplit.train, affects=RESULT
    )
    calibration_examples: int = option("number of calibration examples", 512, affects=RESULT, at_least=1)
    calibration_seed: int | None = option(
        "seed of the calibration examples; null: the seed of the run", None, affects=RESULT, at_least=0
    )

    @property
    def learns(self) -> bool:
        return self.train

    def faults(self) -> Iterator[str]:
        faults = list(super().faults())
        yield from faults
        for name in () if faults else ("epochs", "learning_rate"):
            if getattr(self, name) is not None and not self.train:
                yield f"quant.{name} is for quant.train=true, got quant.train=false; set it or leave this out"


Selective = ByLayer | FakeQuant  # the methods whose layers can be chosen

METHODS: tuple[type[Quant], ...] = (NoQuant, Dynamic, WeightOnly, Static, Qat, Amp, FakeQuant)
