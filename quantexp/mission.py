"""One run from the data to the report, in one function."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from quantexp import models, tasks
from quantexp.benchmark.measure import Measurements, measure
from quantexp.benchmark.size import size
from quantexp.checks.accuracy import coarse_weights
from quantexp.checks.kernels import output_sqnr_db
from quantexp.checks.networks import EXAMPLES, check_graph, check_networks, is_right, poor_layers
from quantexp.checks.process import unchanged
from quantexp.config import ByLayer, Experiment, FakeQuant, Kind, Quant, Static
from quantexp.contestants import checked, contestants, entries, further_runtimes, recipe_of
from quantexp.quant import flows
from quantexp.quant.inspection.account import account, findings
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods import described, quantize, resolved
from quantexp.quant.methods.work import Form, Work
from quantexp.results import Account, Data, Evidence, Finding, Report, Size
from quantexp.runtimes import require
from quantexp.runtimes.contestant import Contestant
from quantexp.statistics.sqnr import finite
from quantexp.storage.kept import Kept, keep
from quantexp.storage.recipe import Recipe
from quantexp.system.environment import describe
from quantexp.system.garbage import collect_garbage
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import Baseline, trained
from quantexp.training.loop import PREDICT_BATCH

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """The result of a run: its report, the network that the report describes, and the recipe that rebuilds it."""

    report: Report
    model: nn.Module
    recipe: Recipe


@dataclass(frozen=True)
class Attempt:
    """A network that was quantized and passed all self-checks, without its latency.

    `evidence` and `size` are those of the quantized network, or of the float network if nothing is quantized;
    `output_sqnr_db` compares their outputs for some examples, None if they are equal.
    """

    evidence: Evidence
    size: Size
    output_sqnr_db: float | None
    findings: tuple[Finding, ...]
    quant: Quant


def run(experiment: Experiment, weights: Path | None = None) -> RunResult:
    """Train or load the float network, quantize it, check what the method did, and measure.

    Args:
        experiment: The options of the run.
        weights: Folder of the stored network, if `train.checkpoint` names a run.

    Raises:
        QuantexpError: ConfigError, DataError, CacheError, TrainingError, QuantizationError or BenchmarkError.
    """
    _require_packages(experiment)
    data = load(experiment)
    collect_garbage()
    baseline = trained(experiment, data, weights)  # trained once, then read from the cache
    collect_garbage()
    sizes = experiment.batch_size if experiment.quant.timed else []  # without kernels there is no latency
    with _checked(experiment, data, baseline, sizes) as made:
        collect_garbage()
        measured = measure(made.contestants, made.others, made.kept, data, experiment.benchmark, sizes)
    report = _report(experiment, data, baseline, made, measured)
    return RunResult(report, made.contestants[-1].network, made.recipe)


def attempt(
    experiment: Experiment, data: TaskData | None = None, baseline: Baseline | None = None, *, advise: bool = True
) -> Attempt:
    """Quantize the float network, inspect and check the result, and measure nothing.

    Args:
        experiment: The options of the run.
        data: The data of the task, if they are loaded.
        baseline: The float network, if it is trained.
        advise: Whether errors say what to do instead, which takes longer to find out.

    Raises:
        CheckError: If the quantized network does not compute what it should.
        QuantizationError: If the method cannot quantize the network.
        QuantexpError: Any other error before that.
    """
    flows.require(experiment.quant)
    require(experiment.runtime)
    data = data or load(experiment)
    baseline = baseline or trained(experiment, data)
    with _checked(experiment, data, baseline, advise=advise) as made:
        reference, *quantized = made.contestants
        final = made.contestants[-1]
        ratio = None
        if quantized:
            batch = data.calibration.some(PREDICT_BATCH)
            ratio = finite(output_sqnr_db(reference.network, final.network, batch))
        folder = made.kept[len(quantized)].folder
        return Attempt(final.evidence, size(final.network, folder), ratio, made.findings, made.quant)


@dataclass(frozen=True)
class _Made:
    """What was made of the float network, inspected, stored and checked.

    `contestants` are in the runtime of the run, `others` in further ones; `kept` has each of them, in this order.
    """

    quant: Quant
    quantized: Quantized
    contestants: Sequence[Contestant]
    others: Sequence[Contestant]
    recipe: Recipe
    kept: Sequence[Kept]
    findings: tuple[Finding, ...]
    account: Account


@contextmanager
def _checked(
    experiment: Experiment, data: TaskData, baseline: Baseline, sizes: Sequence[int] = (), *, advise: bool = True
) -> Iterator[_Made]:
    """Quantize the float network, inspect, store and check both networks; they stay stored in the context.

    With `sizes`, the batch sizes that are timed, this is done for further runtimes as well.
    """
    form = Form(str(experiment.precision), data.example, experiment.runtime.target)
    work = Work(baseline, data, experiment.train, form, advise, experiment.runtime.executes, is_right)
    compared = data.calibration.some(EXAMPLES)
    with unchanged(f"quant={experiment.quant.name}", baseline.model, compared):
        experiment = replace(experiment, quant=resolved(experiment.quant, work))
    check_graph(experiment.quant, work, experiment.batch_size)
    collect_garbage()
    further = further_runtimes(experiment) if sizes else ()
    with unchanged(described(experiment.quant), baseline.model, compared):
        quantized = quantize(experiment.quant, work)
        found = list(entries(experiment, work, quantized, further))
    counted = account(baseline.model, data.evaluated.some(PREDICT_BATCH))
    every = contestants(experiment, data, found, counted, sizes)  # raises if inspection fails
    own = [one for entry, one in every if entry.runtime is experiment.runtime]
    recipe = Recipe.of(experiment, data, input_kind(experiment))
    recipes = [replace(recipe, quant={"name": "none"}, precision="fp32"), recipe][: len(own)]
    recipes = [recipe_of(of, one, experiment.batch_size) for of, one in zip(recipes, own, strict=True)]
    with ExitStack() as stack:
        stored: list[Kept] = []
        keeping = [partial(keep, one.network, of, stack, stored) for one, of in zip(own, recipes, strict=True)]
        noticed = [*findings(counted)]
        noticed += check_networks(experiment.quant, work, quantized, own, keeping, experiment.benchmark.threads)
        others = list(checked(experiment, every[len(own) :], own, stored, recipe, stack))
        noticed += (one for _, _, more in others for one in more)
        yield _Made(
            experiment.quant,
            quantized,
            own,
            [one for one, _, _ in others],
            recipes[-1],
            (*stored, *(other for _, other, _ in others)),
            tuple(noticed),
            counted,
        )


def load(experiment: Experiment) -> TaskData:
    """Load the splits of the task, with the kind of input that the network takes; consecutive runs load them once.

    Raises:
        ConfigError: If the network takes no kind of input that the task provides.
        DataError: If the data are missing, damaged or cannot be downloaded.
    """
    task = experiment.task
    data = tasks.load(task, input_kind(experiment), experiment.data_request)
    data = replace(data, evaluation=experiment.evaluation)
    if experiment.labelled:
        train = "train" if experiment.train.examples is None else "train (drawn by train.examples)"
        splits = {train: data.train, "calibration": data.calibration, "validation": data.validation}
    else:
        splits = {"calibration": data.calibration}
    test = "test" if experiment.evaluation_examples is None else "test (drawn by evaluation_examples)"
    rows = (f"{len(split):,} {name}" for name, split in {**splits, test: data.test}.items() if split is not None)
    log.info("data      %s, %s: %s", task.name, data.origin, ", ".join(rows))
    return data


def input_kind(experiment: Experiment) -> Kind:
    """Return the kind of input that the task provides and the network takes. Raises ConfigError if there is none."""
    return models.kind(experiment.task, tasks.gives(experiment.task), experiment.model)


def _require_packages(experiment: Experiment) -> None:
    """Check that this machine supports the flow and all runtimes. Raises ConfigError, or BenchmarkError."""
    flows.require(experiment.quant)
    for runtime in (experiment.runtime, *further_runtimes(experiment)):
        require(runtime)


def _report(experiment: Experiment, data: TaskData, baseline: Baseline, made: _Made, measured: Measurements) -> Report:
    losses = measured.comparison.layers if measured.comparison else ()
    return Report(
        task=experiment.task.name,
        model=experiment.model.name,
        quant=experiment.quant.name,
        precision=str(experiment.precision),
        data=Data(
            source=experiment.data.value,
            origin=data.origin,
            fingerprint=data.fingerprint,
            train=len(data.train) if experiment.labelled else 0,
            calibration=len(data.calibration),
            test=len(data.test),
            validation=len(data.validation or ()),
            evaluation=data.evaluation.value,
            drawn=experiment.train.examples is not None,
        ),
        seed=experiment.seed,
        host=describe().host,
        machine=describe().summary,
        benchmark=experiment.benchmark.name,
        threads=experiment.benchmark.threads,
        flops=made.account.flops,
        baseline=measured.measured[0],
        quantized=measured.measured[1] if measured.comparison else None,
        comparison=measured.comparison,
        conditions=measured.conditions,
        calibration=experiment.quant.calibration.value if isinstance(experiment.quant, Static | FakeQuant) else None,
        calibration_seconds=made.quantized.calibration_seconds,
        float_training=baseline.training,
        quantized_training=made.quantized.training,
        runtime=experiment.runtime.name,
        others=measured.others,
        others_quantized=measured.others_quantized,
        objective=data.objective.name,
        flow=made.quant.flow.value if isinstance(made.quant, ByLayer) and made.quant.flow else None,
        findings=(
            *data.findings,
            *made.findings,
            *poor_layers(made.quant, losses),
            *coarse_weights(made.quant, str(experiment.precision), measured.comparison),
        ),
    )
