"""What a run does: one variant of one network, or a study of several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from quantexp.config.levers import Granularity
from quantexp.config.option import NOTHING, RESULT, Option, option
from quantexp.config.pairs import Pair, pairs
from quantexp.config.quant import METHODS, ByLayer, FakeQuant, Quant
from quantexp.config.runtime import Runtime, faults_of_names
from quantexp.system.errors import Mismatch

MOST_VALUES = 2**24
DEFAULT_DROP = 0.01  # bound of a search without another one


class Goal(StrEnum):
    """What is minimized among the networks within a bound."""

    latency = "latency"
    size = "size"


class Criterion(StrEnum):
    """The criterion for a quantized network; accuracy needs labels, the others compare its outputs with float."""

    accuracy = "accuracy"
    output_sqnr_db = "output_sqnr_db"
    agreement = "agreement"


@dataclass
class Study(Option):
    """What is done with an experiment.

    `needs_data` says whether it reads the data of the task; `chooses` has the methods whose layers it chooses.
    `implementation` names the generator that yields its variants and returns its findings. If it `tries`, its variants
    are not measured: each is only quantized and checked, in a process of its own.
    """

    group: ClassVar[str] = "study"
    needs_data: ClassVar[bool] = True
    tries: ClassVar[bool] = False
    chooses: ClassVar[tuple[type[Quant], ...]] = ()

    @property
    def by_layer(self) -> bool:
        """Whether it chooses which layers are quantized."""
        return bool(self.chooses)

    def combination_faults(self, quant: Quant, batch_sizes: Any, labelled: bool) -> Iterator[str]:
        """Yield why it does not work with these other settings; `labelled` says whether the data have labels."""
        if self.chooses and not isinstance(quant, self.chooses):
            methods = ", ".join(f"quant={method.name}" for method in METHODS if issubclass(method, self.chooses))
            yield Mismatch(
                f"study={self.name} needs a method that quantizes layers one by one ({methods})",
                f", got quant={quant.name}",
            )

    def runtime_faults(self, quant: Quant, precision: str, runtime: Runtime) -> Iterator[str]:
        """Yield why it does not work with this method and runtime, which go together by themselves."""
        yield from ()


@dataclass
class Single(Study):
    """A single run: train or load, quantize, prove it, measure."""

    name: ClassVar[str] = "single"


@dataclass
class Affine(Study):
    """Affine quantization of a tensor of normal values: its error, its bytes, and the effect of outliers.

    No network is trained: of the other settings only `seed` and `tracking` matter.
    """

    name: ClassVar[str] = "affine"
    implementation: ClassVar[str] = "quantexp.studies.affine.study.find"
    needs_data: ClassVar[bool] = False

    shape: list[int] = option(
        "shape of the tensor; its first axis is that of the channels", [64, 256], affects=RESULT, at_least=1
    )
    num_bits: int = option("bits of an integer", 8, affects=RESULT, at_least=2, at_most=16)
    signed: bool = option("whether the integers are signed", False, affects=RESULT)
    symmetric: bool = option("whether the range reaches as far below zero as above it", False, affects=RESULT)
    nearest: bool = option(
        "whether zero_point is rounded to nearest, as torch does; else down, as the lab does", False, affects=RESULT
    )
    granularity: Granularity = option(
        "which values share a scale: per_tensor, or per_channel", Granularity.per_tensor, affects=RESULT
    )
    bits: list[int] = option(
        "bit widths at which the error is plotted", [2, 3, 4, 5, 6, 7, 8], affects=RESULT, at_least=2, at_most=16
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if len(self.shape) < 2 or math.prod(self.shape[1:]) < 2:
            yield (
                "study.shape must have two axes or more, and two values or more in a channel, such as [64,256]; "
                f"got {self.shape}"
            )
        elif math.prod(self.shape) > MOST_VALUES:
            yield f"study.shape must hold at most {MOST_VALUES:,} values, got {math.prod(self.shape):,}"
        if not self.bits:
            yield "study.bits must name a bit width or more, such as [2,4,8], got []"


@dataclass
class Compatibility(Study):
    """What works for a network: every method, flow, precision and engine, in each runtime asked for, tried in seconds.

    A network that is not trained yet is tried with random weights. The setting quant is not needed; if it is given, its
    settings count where its method is tried. Run the same command again to resume.
    """

    name: ClassVar[str] = "compatibility"
    implementation: ClassVar[str] = "quantexp.studies.compatibility.study.find"
    tries: ClassVar[bool] = True

    runtimes: list[str] = option(
        "runtimes in which every method is tried, as [eager,onnxruntime]; none: runtime alone", [], affects=RESULT
    )
    seconds: float = option("time limit of a row, in seconds", 60.0, affects=RESULT, above=0)
    memory_gb: float | None = option(
        "memory limit of a row, in GB; null: the free memory, divided by the rows that are tried at once",
        None,
        affects=RESULT,
        above=0,
    )
    resume: bool = option("resume with the rows tried before; false: try all of them again", True, affects=NOTHING)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from faults_of_names("study.runtimes", self.runtimes)


@dataclass
class Sensitivity(Study):
    """Each layer quantized alone, and all layers but it: which ones to keep in float.

    Each variant is a run below the run of the study. Run the same command again to resume.
    """

    name: ClassVar[str] = "sensitivity"
    implementation: ClassVar[str] = "quantexp.studies.sensitivity.study.find"
    chooses: ClassVar[tuple[type[Quant], ...]] = (ByLayer, FakeQuant)

    by: Criterion = option(
        "criterion for the ranking of layers: accuracy, or without labels output_sqnr_db or agreement",
        Criterion.accuracy,
        affects=RESULT,
    )
    layers: list[str] = option(
        "patterns of layers that are varied one by one, or of modules that are varied as a whole, as "
        "[features,classifier.*]; none: every quantized layer",
        [],
        affects=RESULT,
    )
    resume: bool = option(
        "resume with the variants measured before; false: measure all of them again", True, affects=NOTHING
    )

    def combination_faults(self, quant: Quant, batch_sizes: Any, labelled: bool) -> Iterator[str]:
        yield from super().combination_faults(quant, batch_sizes, labelled)
        if not labelled and self.by is Criterion.accuracy:
            yield Mismatch(
                "study.by=accuracy needs labels, and data=synthetic has none",
                "; use study.by=output_sqnr_db or study.by=agreement, or data=sample or data=full",
            )


@dataclass
class Search(Study):
    """Mixed precision under a bound on accuracy: which layers to quantize for the least latency or size.

    It can choose the method and the runtime too: in each runtime, the methods that it executes are searched. It decides
    on a validation split held out of the training split (`validation`, 0.1 if that is 0), not on the test split;
    without labels, on the evaluated examples. Each variant is a run below the run of the study. Run the same command
    again to resume.
    """

    name: ClassVar[str] = "search"
    implementation: ClassVar[str] = "quantexp.studies.search.study.find"
    chooses: ClassVar[tuple[type[Quant], ...]] = (ByLayer,)  # a simulated layer is neither faster nor smaller

    max_accuracy_drop: float | None = option(
        "bound: greatest drop in accuracy vs float, 0.003 is 0.3 points; negative for a gain; "
        "null: 0.01, unless another bound is given",
        None,
        affects=RESULT,
        at_least=-1,
        at_most=1,
    )
    min_output_sqnr_db: float | None = option(
        "alternative bound: least SQNR of the outputs with respect to float, in dB; needs no labels",
        None,
        affects=RESULT,
        at_least=0,
    )
    min_agreement: float | None = option(
        "alternative bound: least share of examples with the same prediction as float; needs no labels",
        None,
        affects=RESULT,
        at_least=0,
        at_most=1,
    )
    objective: Goal = option("what is minimized within the bound: latency or size", Goal.latency, affects=RESULT)
    batch_size: int | None = option(
        "batch size of that latency, one that is measured; null: the largest", None, affects=RESULT, at_least=1
    )
    methods: list[str] = option(
        "methods to choose from, as [static,dynamic], with default settings (but those of quant); none: only quant",
        [],
        affects=RESULT,
    )
    runtimes: list[str] = option(
        "runtimes to choose from, as [eager,onnxruntime]; none: runtime alone", [], affects=RESULT
    )
    layers: list[str] = option(
        "patterns of layers to decide on one by one, or of modules to decide on as a whole; the others are always "
        "quantized; none: every layer",
        [],
        affects=RESULT,
    )
    max_variants: int = option("greatest number of variants to measure", 64, affects=RESULT, at_least=1)
    resume: bool = option(
        "resume with the variants measured before; false: measure all of them again", True, affects=NOTHING
    )

    def __post_init__(self) -> None:
        if not self._bounds():
            self.max_accuracy_drop = DEFAULT_DROP
        super().__post_init__()

    @property
    def bound(self) -> tuple[Criterion, float]:
        """What is bounded, and by what."""
        (found,) = self._bounds().items()
        return found

    def _bounds(self) -> dict[Criterion, float]:
        given = {
            Criterion.accuracy: self.max_accuracy_drop,
            Criterion.output_sqnr_db: self.min_output_sqnr_db,
            Criterion.agreement: self.min_agreement,
        }
        return {criterion: limit for criterion, limit in given.items() if limit is not None}

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if len(self._bounds()) > 1:
            yield (
                "study=search takes one bound, got several of study.max_accuracy_drop, study.min_output_sqnr_db and "
                "study.min_agreement; give one of them"
            )
        possible = [method.name for method in METHODS if issubclass(method, self.chooses)]
        for name in self.methods:
            if name not in possible:
                yield (
                    "study.methods must name methods that quantize layers one by one "
                    f"({', '.join(possible)}), got {name!r}"
                )
        if len(set(self.methods)) < len(self.methods):
            yield f"study.methods must name each method once, got {self.methods}"
        yield from faults_of_names("study.runtimes", self.runtimes)
        if len(self.methods) > self.max_variants:
            yield (
                f"study.max_variants must be at least 1 for each of the {len(self.methods)} methods, "
                f"got {self.max_variants}"
            )

    def combination_faults(self, quant: Quant, batch_sizes: Any, labelled: bool) -> Iterator[str]:
        yield from super().combination_faults(quant, batch_sizes, labelled)
        if self.batch_size is not None and isinstance(batch_sizes, list) and self.batch_size not in batch_sizes:
            yield (
                f"study.batch_size must be one that is measured, got {self.batch_size}; "
                f"choose of batch_size={batch_sizes}, or add it there"
            )
        if labelled:
            return
        if self.bound[0] is Criterion.accuracy:
            yield Mismatch(
                "study.max_accuracy_drop needs labels, and data=synthetic has none",
                "; use study.min_output_sqnr_db=30 or study.min_agreement=0.99, or data=sample or data=full",
            )
        for method in METHODS:
            if method.trains and method.name in self.methods:
                yield Mismatch(
                    f"study.methods={method.name} trains, and data=synthetic has no labels to train on",
                    "; leave it out, or use data=sample or data=full",
                )

    def pairs(self, quant: ByLayer, precision: str, runtime: Runtime) -> Iterator[Pair]:
        """Yield each method in each runtime, also those that the runtime does not execute."""
        yield from pairs(self.methods, self.runtimes, quant, precision, runtime)

    def runtime_faults(self, quant: Quant, precision: str, runtime: Runtime) -> Iterator[str]:
        if not isinstance(quant, ByLayer):  # a fault already
            return
        every = list(self.pairs(quant, precision, runtime))
        possible = [pair for pair in every if not pair.fault]
        if not possible and (self.runtimes or self.methods):  # a single pair has a fault of its own
            reasons = "; ".join(dict.fromkeys(pair.fault for pair in every))
            yield Mismatch(
                "study=search needs a runtime that executes one of its methods",
                f", got {', '.join(pair.name for pair in every)} ({reasons}); choose others with study.runtimes and "
                "study.methods",
            )
        if self.max_variants < len(possible):
            yield (
                f"study.max_variants must be at least 1 for each of the {len(possible)} pairs of a method and a "
                f"runtime, got {self.max_variants}"
            )


STUDIES: tuple[type[Study], ...] = (Single, Affine, Compatibility, Sensitivity, Search)
