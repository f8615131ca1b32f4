"""The experiment: every axis composed and checked, ready to run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantexp.config.benchmark import Benchmark, Paired
from quantexp.config.levers import Start
from quantexp.config.model import Mlp, Model
from quantexp.config.option import Settings, option
from quantexp.config.quant import METHODS, ByLayer, FakeQuant, Qat, Quant, Static
from quantexp.config.study import Single, Study
from quantexp.config.sweep import Sweep
from quantexp.config.task import CalibrationSplit, DataRequest, EvaluationSplit, Mnist, Source, Task
from quantexp.config.tracking import Local, Tracking
from quantexp.config.train import Train
from quantexp.system.errors import ConfigError, Mismatch, TrainingError

if TYPE_CHECKING:
    from quantexp.tasks.data import TaskData
    from quantexp.training.baseline import Baseline


log = logging.getLogger(__name__)


@dataclass
class Experiment(Settings):
    """One run: a task, a model, a quantization method and how it is measured and recorded."""

    task: Task = field(default_factory=Mnist)
    model: Model = field(default_factory=Mlp)
    quant: Quant = field(default_factory=Static)
    precision: str | None = option("what it is lowered to; null is the method's own choice", None)
    batch_size: Any = option("inference batch sizes that are measured: an integer or a list", [1, 64])
    data: Source = option("full: the real data set; sample: the small one in the package, no network", Source.full)
    data_dir: str | None = option("where data are read from, read-only; default $QUANTEXP_DATA_DIR", None)
    cache_dir: str | None = option("where downloads and trained models are kept; null: your cache directory", None)
    validation: float = option(
        "share of the training examples held out as a validation split", 0.0, at_least=0, at_most=0.9
    )
    evaluation: EvaluationSplit = option("split that accuracy is measured on", EvaluationSplit.test)
    seed: int = option(
        "shapes weights, the order of batches, and which examples calibrate or validate", 0, at_least=0, at_most=2**32
    )
    train: Train = field(default_factory=Train)
    benchmark: Benchmark = field(default_factory=Paired)
    tracking: Tracking = field(default_factory=Local)
    study: Study = field(default_factory=Single)
    sweep: Sweep = field(default_factory=Sweep)

    def __post_init__(self) -> None:
        if self.precision is None:
            self.precision = type(self.quant).precisions[0]
        if isinstance(self.batch_size, int) and not isinstance(self.batch_size, bool):
            self.batch_size = [self.batch_size]
        self.data_dir = self.data_dir or None  # the environment variable may be set and empty
        if isinstance(self.model, Mlp) and self.model.hidden is None:
            self.model = self.model.filled(hidden=list(self.task.hidden))
        if isinstance(self.task, Mnist) and self.task.crop is None:
            self.task = self.task.filled(crop=self.model.side or self.task.side)
        super().__post_init__()

    def faults(self) -> Iterator[str]:
        """Yield every fault of this combination; each option has checked its own values before."""
        yield from (fault.removeprefix(".") for fault in super().faults())
        chosen = (self.task, self.model, self.quant, self.train, self.benchmark, self.tracking, self.study, self.sweep)
        for name in (extra for one in chosen for extra in one.extras()):
            yield f"there is no setting {name}; leave out the + and see `python -m quantexp --help`"
        yield from self._precision_faults()
        yield from self._batch_size_faults()
        yield from self._image_faults()
        if self.evaluation == EvaluationSplit.validation and self.validation == 0:
            yield (
                "evaluation=validation needs examples that are held out of train, got validation=0; "
                "hold some out, as validation=0.1 does"
            )
        yield from self.study.combination_faults(self)
        if isinstance(self.quant, Qat) and self.quant.start is Start.scratch and self.train.checkpoint:
            yield (
                "quant.start=scratch would not use the weights of train.checkpoint="
                f"{self.train.checkpoint}; give one of the two"
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
        rule = f"precision={self.precision} does not exist for quant={self.quant.name}"
        rest = f", which has {', '.join(possible)}. All pairs: {pairs}"
        known = any(self.precision in method.precisions for method in METHODS)
        yield Mismatch(rule, rest) if known else rule + rest

    def _flow_faults(self) -> Iterator[str]:
        """Yield the fault of a precision that the method has, but not in this flow."""
        if not isinstance(self.quant, ByLayer) or self.precision in self.quant.flows.get(self.quant.flow, ()):
            return
        having = [f"quant.flow={flow}: {', '.join(names)}" for flow, names in self.quant.flows.items()]
        yield Mismatch(
            f"precision={self.precision} does not exist for quant={self.quant.name} in quant.flow={self.quant.flow}",
            f". All pairs of quant={self.quant.name}: {'; '.join(having)}",
        )

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

    def _image_faults(self) -> Iterator[str]:
        side, given = self.model.side, self.task.side
        if side is None or given == side:
            return
        rule = f"model={self.model.name} takes images of {side}x{side}"
        if given is None:
            yield Mismatch(
                f"{rule}, task={self.task.name} gives none", "; choose task=mnist, or another model such as mlp"
            )
        else:
            yield Mismatch(rule, f", got task.crop={given}; leave task.crop out")

    @property
    def data_request(self) -> DataRequest:
        """Which examples this experiment needs."""
        calibration, examples, seed = CalibrationSplit.train, DataRequest.calibration_examples, self.seed
        if isinstance(self.quant, Static | FakeQuant):
            calibration, examples = self.quant.calibration, self.quant.calibration_examples
            seed = seed if self.quant.calibration_seed is None else self.quant.calibration_seed
        places = (self.data, self.data_dir, self.cache_dir)
        return DataRequest(*places, calibration, examples, seed, self.validation, self.seed)

    def check_inputs(self) -> None:
        """Make sure, before anything heavy starts, that what is read from outside is there.

        Raises:
            QuantexpError: DataError, TrainingError, CacheError or ConfigError.
        """
        if not self.study.needs_data:
            return
        self.task.check(self.data_request)
        self.model.check()
        checkpoint = self.train.checkpoint
        if checkpoint and not self.train.checkpoint_run and not Path(checkpoint).expanduser().is_file():
            raise TrainingError(
                f"train.checkpoint must name a file with weights, there is none at {checkpoint}; "
                "correct the path, or give a run as runs:/RUN_ID"
            )

    def load(self) -> TaskData:
        """Load the splits of the task; it reads them once for runs that follow each other."""
        from quantexp.tasks import recent

        data = replace(recent.load(self.task, self.data_request), evaluation=self.evaluation)
        splits = {
            "train": data.train,
            "calibration": data.calibration,
            "validation": data.validation,
            "test": data.test,
        }
        rows = ", ".join(f"{len(split):,} {name}" for name, split in splits.items() if split is not None)
        log.info("data      %s, %s: %s", self.task.name, data.origin, rows)
        return data

    def baseline(self, data: TaskData, weights: Path | None = None) -> Baseline:
        """Return the float model for `data`: trained once, then loaded from the cache."""
        from quantexp.training import baseline as baselines

        return baselines.obtain(self, data, weights)


def checked(experiment: Any) -> Experiment:
    """Return the experiment unless keys were forced into it that it does not declare."""
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"expected an Experiment, got {type(experiment).__name__}")
    if extras := list(experiment.extras()):
        raise ConfigError(
            *(f"there is no setting {name.removeprefix('.')}; see `python -m quantexp --help`" for name in extras)
        )
    return experiment
