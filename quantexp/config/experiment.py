"""The experiment: every axis composed and checked, ready to run."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from quantexp.config.benchmark import Benchmark, Lab, Paired
from quantexp.config.folders import TASKS
from quantexp.config.inputs import Kind
from quantexp.config.levers import Start
from quantexp.config.model import MODELS, Mlp, Model, Torchvision, Transformers
from quantexp.config.option import NOTHING, RESULT, WEIGHTS, Affects, Option, Settings, option
from quantexp.config.quant import METHODS, ByLayer, FakeQuant, Qat, Quant, Static
from quantexp.config.runtime import RUNTIMES, Eager, Runtime
from quantexp.config.study import STUDIES, Single, Study
from quantexp.config.sweep import SweepSettings
from quantexp.config.task import (
    CalibrationSplit,
    DataRequest,
    DataSource,
    EvaluationSplit,
    Mnist,
    Sentences,
    Task,
)
from quantexp.config.torchvision import RESCALING
from quantexp.config.tracking import Local, Server, Tracking
from quantexp.config.train import Train
from quantexp.system.errors import ConfigError, Mismatch

OPTIONS: tuple[type[Option], ...] = (
    *(*TASKS, *MODELS, *METHODS, *RUNTIMES, Train, Paired, Lab, Local, Server, *STUDIES),
)


@dataclass
class Experiment(Settings):
    """One run: a task, a network, a quantization method, and how it is measured and recorded."""

    task: Task = field(default_factory=Mnist)
    model: Model = field(default_factory=Mlp)
    quant: Quant = field(default_factory=Static)
    precision: str | None = option(
        "precision of the quantized network; null: the default of the method", None, affects=RESULT
    )
    batch_size: Any = option(
        "inference batch sizes that latency is measured at: an integer or a list", [1, 64], affects=RESULT
    )
    data: DataSource = option(
        "full: the real data set; sample: the small one in the package; synthetic: random inputs without labels",
        DataSource.full,
        affects=WEIGHTS,
    )
    data_dir: str | None = option("folder that data are read from; default: $QUANTEXP_DATA_DIR", None, affects=NOTHING)
    cache_dir: str | None = option(
        "folder for downloads and trained networks; null: your cache directory", None, affects=NOTHING
    )
    validation: float = option(
        "share of the training examples held out as a validation split", 0.0, affects=WEIGHTS, at_least=0, at_most=0.9
    )
    evaluation: EvaluationSplit = option("split that accuracy is measured on", EvaluationSplit.test, affects=RESULT)
    evaluation_examples: int | None = option(
        "how many examples accuracy is measured on, drawn with the seed; null: all (data=synthetic: 1,024)",
        None,
        affects=RESULT,
        at_least=1,
    )
    seed: int = option(
        "seed of the weights, the order of batches, and the examples for calibration and validation",
        0,
        affects=WEIGHTS,
        at_least=0,
        at_most=2**32,
    )
    runtime: Runtime = field(default_factory=Eager)
    train: Train = field(default_factory=Train)
    benchmark: Benchmark = field(default_factory=Paired)
    tracking: Tracking = field(default_factory=Local)
    study: Study = field(default_factory=Single)
    sweep: SweepSettings = field(default_factory=SweepSettings)

    def __post_init__(self) -> None:
        if self.precision is None:
            self.precision = type(self.quant).precisions[0]
        if isinstance(self.batch_size, int) and not isinstance(self.batch_size, bool):
            self.batch_size = [self.batch_size]
        self.data_dir = self.data_dir or None  # the environment variable may be set and empty
        if isinstance(self.model, Mlp) and self.model.hidden is None:
            self.model = self.model.filled(hidden=list(self.task.hidden))
        if isinstance(self.task, Sentences) and self.task.tokenizer is None and isinstance(self.model, Transformers):
            self.task = self.task.filled(tokenizer=self.model.path)
        if isinstance(self.model, Torchvision) and self.model.transform_input is None:
            rescaled = self.model.network in RESCALING and self.train.torchvision_weights is not None
            self.model = self.model.filled(transform_input=rescaled)
        if (name := self.task.size_setting) and self.task.size is None:
            usual = self.model.usual_size if self.task.usual_size else self.model.size  # files have a size of their own
            self.task = self.task.filled(**{name: usual or self.task.usual_size or None})
        if (name := self.task.channels_setting) and self.task.image_channels is None:
            self.task = self.task.filled(**{name: self.model.image_channels or self.task.usual_channels})
        super().__post_init__()

    def faults(self) -> Iterator[str]:
        """Yield every fault of this combination; each option has checked its own values before."""
        yield from (fault.removeprefix(".") for fault in super().faults())
        options = [getattr(self, group) for group in GROUPS]
        for name in (extra for chosen in [*options, self.sweep] for extra in chosen.extras()):
            yield f"there is no setting {name}; leave out the + and see `python -m quantexp --help`"
        yield from self._precision_faults()
        yield from self.runtime.combination_faults(self.quant, str(self.precision))
        yield from self._batch_size_faults()
        yield from self._input_faults()
        yield from self._data_faults()
        yield from self.study.combination_faults(self.quant, self.batch_size, self.labelled)
        yield from self.study.runtime_faults(self.quant, str(self.precision), self.runtime)
        yield from self._weight_faults()

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels: without them nothing is trained, and there is no accuracy."""
        return self.data is not DataSource.synthetic

    @property
    def data_request(self) -> DataRequest:
        """Which examples this experiment needs."""
        calibration, examples, seed = CalibrationSplit.train, DataRequest.calibration_examples, self.seed
        if isinstance(self.quant, Static | FakeQuant):
            calibration, examples = self.quant.calibration, self.quant.calibration_examples
            seed = seed if self.quant.calibration_seed is None else self.quant.calibration_seed
        places = (self.data, self.data_dir, self.cache_dir)
        calibrates = type(self.quant).calibrates
        return DataRequest(
            *places,
            calibration,
            examples,
            seed,
            self.validation,
            self.seed,
            calibrates,
            self.train.examples,
            self.evaluation_examples,
        )

    def _precision_faults(self) -> Iterator[str]:
        possible = type(self.quant).precisions
        if self.precision in possible:
            yield from self._flow_faults()
            return
        if str(self.precision).isdigit():
            yield f"precision is a name such as {possible[0]}, got the bare number {self.precision}"
            return
        pairs = "; ".join(f"quant={method.name}: {', '.join(method.precisions)}" for method in METHODS)
        rule = f"precision={self.precision} is not supported by quant={self.quant.name}"
        rest = f", which has {', '.join(possible)}. All pairs: {pairs}"
        known = any(self.precision in method.precisions for method in METHODS)
        yield Mismatch(rule, rest) if known else rule + rest

    def _flow_faults(self) -> Iterator[str]:
        """Yield the fault of a precision that the method has, but not in this flow, or not in this runtime."""
        if not isinstance(self.quant, ByLayer):
            return
        quant = self.quant
        yield from quant.faults_of(str(self.precision))
        if quant.flow is None:
            if quant.candidates() and not quant.candidates(str(self.precision)):
                levers = "the settings of quant that are set"
                yield Mismatch(f"precision={self.precision} is not supported in the flows that have {levers}")
            return
        if self.precision not in quant.flows.get(quant.flow, ()):
            having = [f"quant.flow={flow}: {', '.join(names)}" for flow, names in self.quant.flows.items()]
            rule = f"precision={self.precision} is not supported by quant={self.quant.name} in flow {self.quant.flow}"
            yield Mismatch(rule, f". All pairs of quant={self.quant.name}: {'; '.join(having)}")

    def _batch_size_faults(self) -> Iterator[str]:
        sizes = self.batch_size
        rule = "batch_size must be a positive integer or a list of them, such as 64 or [1,64]"
        if not isinstance(sizes, list) or not sizes:
            yield f"{rule}, got {sizes!r}"
        elif wrong := [n for n in sizes if isinstance(n, bool) or not isinstance(n, int) or n < 1]:
            yield f"{rule}, got {wrong[0]!r} in {sizes!r}"
        elif len(set(sizes)) < len(sizes):
            yield f"batch_size must name each size once, got {sizes!r}"
        elif max(sizes) > 65536:
            yield f"batch_size must be at most 65536, got {max(sizes)}"

    def _input_faults(self) -> Iterator[str]:
        """Yield why the network cannot take what the task gives; of users' classes that is known later."""
        gives, takes = self.task.gives, self.model.takes
        if gives is None or takes is None:
            return
        if not any(taken.kind in gives for taken in takes):
            yield no_pair(self.task.name, gives, self.model.name, [taken.kind for taken in takes])
        elif (size := self.model.size) and self.task.size_setting and self.task.size != size:
            yield Mismatch(
                f"model={self.model.name} takes images of {size}x{size}",
                f", got task.{self.task.size_setting}={self.task.size}; leave task.{self.task.size_setting} out",
            )
        elif (channels := self.model.image_channels) and self.task.image_channels not in (None, channels):
            name = f"task.{self.task.channels_setting}"
            yield Mismatch(
                f"model={self.model.name} takes images of {channels} channels",
                f", got {name}={self.task.image_channels}; leave {name} out",
            )

    def _weight_faults(self) -> Iterator[str]:
        checkpoint = self.train.checkpoint
        if isinstance(self.quant, Qat) and self.quant.start is Start.scratch and checkpoint:
            yield f"quant.start=scratch would not use the weights of train.checkpoint={checkpoint}; give one of the two"
        if self.train.torchvision_weights and not isinstance(self.model, Torchvision):
            yield Mismatch(
                f"train.checkpoint={checkpoint} is for model=torchvision",
                f", got model={self.model.name}; give a file with weights of that network",
            )

    def _data_faults(self) -> Iterator[str]:
        if self.data in list(DataSource) and self.data not in self.task.data:  # a wrong name is a fault already
            having = ", ".join(self.task.data)
            yield Mismatch(f"data={self.data} is not supported by task={self.task.name}", f", which has {having}")
        if not self.labelled and self.quant.learns:
            setting = "" if self.quant.trains else " with quant.train=true"
            yield Mismatch(
                f"quant={self.quant.name}{setting} trains, and data=synthetic has no labels to train on",
                "; use data=sample or data=full, or a method without training such as quant=static",
            )
        if self.labelled and not self.model.learns_labels:
            yield Mismatch(
                f"model={self.model.name} with model.predicts=token has an output for each token, and the labels of "
                f"task={self.task.name} are of whole examples",
                "; use data=synthetic, or model.predicts=label",
            )
        if not self.labelled:
            yield from self.task.synthetic_faults()
        if not self.labelled and self.validation:
            yield (
                f"data=synthetic trains nothing, so that no examples are held out, got validation={self.validation:g}; "
                "leave it out"
            )
        if not self.labelled and self.train.examples is not None:
            yield f"data=synthetic trains nothing, got train.examples={self.train.examples}; leave it out"
        if not self.labelled and self.evaluation == EvaluationSplit.validation:
            yield "data=synthetic has no validation split, got evaluation=validation; leave it out"
        elif self.evaluation == EvaluationSplit.validation and self.validation == 0:
            yield (
                "evaluation=validation needs examples that are held out of train, got validation=0; "
                "hold some out, as validation=0.1 does"
            )


GROUPS = ("task", "model", "quant", "runtime", "train", "benchmark", "tracking", "study")  # whose values are options


def no_pair(task: str, gives: Sequence[Kind], model: str, takes: Sequence[Kind]) -> Mismatch:
    """Return the fault of a network that takes no kind of input which the task gives, with what each goes with."""
    rule = f"model={model} takes {' or '.join(takes)}, task={task} gives {' or '.join(gives)}"
    networks = [one.name for one in MODELS if any(taken.kind in gives for taken in one.takes or ())]
    tasks = [one.name for one in TASKS if any(kind in takes for kind in one.gives or ())]
    fitting = {f"task={task} goes with model=": networks, f"model={model} with task=": tasks}
    return Mismatch(rule, "".join(f"; {pair}{', '.join(names)}" for pair, names in fitting.items() if names))


@functools.cache  # a sweep asks it of each setting of each run
def affects(path: str) -> Affects:
    """Return the most that a setting affects, by its path as one types it: `seed`, `quant.flow`, `quant`.

    A group stands for the choice of an option and all settings that come with it; what a setting holds, as
    `model.arguments.width`, affects what the setting does. Settings of a sweep and of Hydra affect nothing.
    """
    group, _, rest = path.partition(".")
    name = rest.partition(".")[0]
    options = [option for option in OPTIONS if option.group == group]
    if not options and not name and group in Experiment.__dataclass_fields__ and group != SweepSettings.group:
        return Experiment.affected_by(group)
    found = [option.choice_affects for option in options if not name]
    found += [
        option.affected_by(field.name)
        for option in options
        for field in fields(option)
        if "affects" in field.metadata and name in ("", field.name)
    ]
    return next((one for one in (WEIGHTS, RESULT) if one in found), NOTHING)


def checked(experiment: Any) -> Experiment:
    """Return the experiment. Raises ConfigError if keys were added with + that it does not have."""
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"expected an Experiment, got {type(experiment).__name__}")
    if extras := list(experiment.extras()):
        raise ConfigError(
            *(f"there is no setting {name.removeprefix('.')}; see `python -m quantexp --help`" for name in extras)
        )
    return experiment
