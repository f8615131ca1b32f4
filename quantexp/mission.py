"""One run from the data to the report, in one function."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from quantexp import models, tasks
from quantexp.benchmark.measure import Measurements, measure
from quantexp.benchmark.size import size
from quantexp.checks.accuracy import coarse_weights
from quantexp.checks.kernels import output_sqnr_db
from quantexp.checks.networks import EXAMPLES, check_graph, check_networks, is_right, poor_layers
from quantexp.checks.process import unchanged
from quantexp.config import RUNTIMES, ByLayer, Eager, Experiment, FakeQuant, Kind, Quant, Runtime, Static
from quantexp.quant import flows
from quantexp.quant.inspection.account import account, findings
from quantexp.quant.inspection.evidence import inspect
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods import described, quantize, resolved
from quantexp.quant.methods.work import Form, Work
from quantexp.results import Account, Data, Evidence, Finding, Report, Size
from quantexp.runtimes import prepare, require
from quantexp.runtimes.contestant import Contestant
from quantexp.runtimes.prepared import Prepared
from quantexp.statistics.sqnr import finite
from quantexp.storage.kept import Kept, kept
from quantexp.storage.recipe import Recipe
from quantexp.system.environment import describe, threads
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
    baseline = trained(experiment, data, weights)  # trained once, then read from the cache
    exported = _exported(experiment, data, baseline)
    with _checked(experiment, data, baseline) as made:
        others = list(_others(experiment, made.contestants[0], exported))
        sizes = experiment.batch_size if experiment.quant.timed else []  # without kernels there is no latency
        measured = measure(made.contestants, others, made.kept, data, experiment.benchmark, sizes)
    report = _report(experiment, data, baseline, made, measured)
    return RunResult(report, made.contestants[-1].network, made.recipes[-1])


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
        return Attempt(final.evidence, size(final.network, made.kept[-1].folder), ratio, made.findings, made.quant)


@dataclass(frozen=True)
class _Made:
    """What was made of the float network, inspected, stored and checked."""

    quant: Quant
    quantized: Quantized
    contestants: Sequence[Contestant]
    recipes: Sequence[Recipe]
    kept: Sequence[Kept]
    findings: tuple[Finding, ...]
    account: Account


@contextmanager
def _checked(experiment: Experiment, data: TaskData, baseline: Baseline, *, advise: bool = True) -> Iterator[_Made]:
    """Quantize the float network, inspect, store and check both networks; they stay stored in the context."""
    form = Form(str(experiment.precision), data.example, experiment.runtime.target)
    work = Work(baseline, data, experiment.train, form, advise, experiment.runtime.executes, is_right)
    compared = data.calibration.some(EXAMPLES)
    with unchanged(f"quant={experiment.quant.name}", baseline.model, compared):
        experiment = replace(experiment, quant=resolved(experiment.quant, work))
    check_graph(experiment.quant, work, experiment.batch_size)
    with unchanged(described(experiment.quant), baseline.model, compared):
        quantized = quantize(experiment.quant, work)
    counted = account(baseline.model, data.evaluated.some(PREDICT_BATCH))
    contestants = list(_contestants(experiment, data, baseline, quantized, counted))  # raises if inspection fails
    recipes = _recipes(experiment, data, contestants)
    with ExitStack() as stack:
        stored = [
            stack.enter_context(kept(one.network, recipe)) for one, recipe in zip(contestants, recipes, strict=True)
        ]
        found = check_networks(experiment.quant, work, quantized, contestants, stored, experiment.benchmark.threads)
        unloaded = [replace(one, network=None) for one in stored]
        yield _Made(experiment.quant, quantized, contestants, recipes, unloaded, (*findings(counted), *found), counted)


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
    for runtime in (experiment.runtime, *_further_runtimes(experiment)):
        require(runtime)


def _contestants(
    experiment: Experiment, data: TaskData, baseline: Baseline, quantized: Quantized, counted: Account
) -> Iterator[Contestant]:
    """Yield the float network and, if anything is quantized, the quantized one; both are inspected."""
    float_network = Quantized(baseline.model, None, baseline.training)
    yield _inspected(float_network, "fp32", experiment, data, counted)
    if quantized.promise is not None:
        yield _inspected(quantized, str(experiment.precision), experiment, data, counted)


def _inspected(
    quantized: Quantized, precision: str, experiment: Experiment, data: TaskData, counted: Account
) -> Contestant:
    runtime, engine = experiment.runtime, experiment.quant.packs_for if quantized.promise else None
    with threads(experiment.benchmark.threads):  # a compiled network runs with the threads it was compiled with
        prepared = prepare(runtime, quantized.model, data.evaluated.some(PREDICT_BATCH), engine)
        evidence = inspect(quantized, prepared.operators(), engine, counted, prepared.in_float)
    return Contestant(quantized.model, precision, runtime, evidence, quantized.training, engine, prepared)


def _exported(experiment: Experiment, data: TaskData, baseline: Baseline) -> dict[str, tuple[Prepared, ...]]:
    """Return the float network in each further runtime that exports it, for the batch sizes that are timed.

    This comes first, because torch then forgets what it has compiled.
    """
    made = {}
    with threads(experiment.benchmark.threads):
        for runtime in _further_runtimes(experiment):
            if runtime.exports:
                timed = [data.evaluated.first(count) for count in experiment.batch_size]
                batches = timed if runtime.fixed else [data.evaluated.some(PREDICT_BATCH)]
                made[runtime.name] = tuple(prepare(runtime, baseline.model, batch) for batch in batches)
    return made


def _others(
    experiment: Experiment, reference: Contestant, exported: Mapping[str, tuple[Prepared, ...]]
) -> Iterator[Contestant]:
    """Yield the float network once for each further runtime."""
    for runtime in _further_runtimes(experiment):
        yield replace(reference, runtime=runtime, inspected=None, earlier=exported.get(runtime.name, ()))


def _further_runtimes(experiment: Experiment) -> Iterator[Runtime]:
    """Yield the other runtimes that the float network is timed in: eager, and those in benchmark.runtimes."""
    if not experiment.quant.timed:
        return
    known: dict[str, type[Runtime]] = {runtime.name: runtime for runtime in RUNTIMES}
    for name in dict.fromkeys((Eager.name, *experiment.benchmark.runtimes)):
        if name != experiment.runtime.name:
            yield known[name]()


def _recipes(experiment: Experiment, data: TaskData, contestants: Sequence[Contestant]) -> list[Recipe]:
    """Return the recipe that rebuilds each contestant from its stored state."""
    recipe = Recipe.of(experiment, data, input_kind(experiment))
    if any(contestant.inspected and contestant.inspected.batch_size for contestant in contestants):
        sizes = {PREDICT_BATCH, *experiment.batch_size}
        recipe = replace(recipe, batch_sizes=tuple(sorted(sizes)))
    recipes = [replace(recipe, quant={"name": "none"}, precision="fp32"), recipe]
    return [replace(own, exported=one.exported or b"") for own, one in zip(recipes, contestants, strict=False)]


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
        objective=data.objective.name,
        flow=made.quant.flow.value if isinstance(made.quant, ByLayer) and made.quant.flow else None,
        findings=(
            *data.findings,
            *made.findings,
            *poor_layers(made.quant, losses),
            *coarse_weights(made.quant, str(experiment.precision), measured.comparison),
        ),
    )
