"""What is measured: the float and the quantized network, in the runtime of the run and in further ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from quantexp.checks.networks import check_networks
from quantexp.config import ByLayer, Eager, Experiment, Runtime, runtime_named
from quantexp.quant.inspection.evidence import inspect
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods import quantize
from quantexp.quant.methods.work import Work
from quantexp.results import Account, Evidence, Finding
from quantexp.runtimes import prepare
from quantexp.runtimes.contestant import Contestant
from quantexp.storage.kept import Kept, keep
from quantexp.storage.recipe import Recipe
from quantexp.system.environment import threads
from quantexp.system.errors import Mismatch, QuantizationError
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import UntrainedError
from quantexp.training.loop import PREDICT_BATCH

log = logging.getLogger(__name__)

UNINSPECTED = Evidence((), (), ())  # of a network that is only timed


@dataclass(frozen=True)
class Entry:
    """A network that takes part in a runtime, and the arguments of the method that made it.

    What is `only_timed` is neither inspected nor evaluated: the float network in a further runtime.
    """

    made: Quantized
    runtime: Runtime
    work: Work
    only_timed: bool = False


def further_runtimes(experiment: Experiment) -> Iterator[Runtime]:
    """Yield the other runtimes that networks are timed in: eager, and those in benchmark.runtimes."""
    if not experiment.quant.timed:
        return
    for name in dict.fromkeys((Eager.name, *experiment.benchmark.runtimes)):
        if name != experiment.runtime.name:
            yield runtime_named(name)()


def entries(experiment: Experiment, work: Work, made: Quantized, further: Iterable[Runtime]) -> Iterator[Entry]:
    """Yield what is measured: in the runtime of the run, and then in each further one, float before quantized.

    Eager execution is timed beside every other runtime, but quantized only where `benchmark.runtimes` names it.

    Args:
        experiment: The options of the run, with the flow that is used.
        work: The arguments of the method for the runtime of the run.
        made: What it made of them.
        further: The other runtimes. Where they need another form, the float network is quantized again.

    Raises:
        QuantizationError: If the method cannot quantize the network for a runtime that `benchmark.runtimes` names.
    """
    reference = Quantized(work.baseline.model, None, work.baseline.training)
    yield Entry(reference, experiment.runtime, work)
    if made.promise is not None:
        yield Entry(made, experiment.runtime, work)
    for runtime in further:
        yield Entry(reference, runtime, work, only_timed=True)
        asked = made.promise is not None and runtime.name in experiment.benchmark.runtimes
        if asked and (entry := _quantized_in(runtime, experiment, work, made)):
            yield entry


def contestants(
    experiment: Experiment, data: TaskData, found: Sequence[Entry], counted: Account, sizes: Sequence[int]
) -> list[tuple[Entry, Contestant]]:
    """Return the entries with their contestants, inspected and, where that comes first, prepared to be timed.

    Networks that are exported come before all others, because torch then forgets what it has compiled.

    Args:
        experiment: The options of the run, with the flow that is used.
        data: Has the split that is evaluated.
        found: What is measured.
        counted: The account of the float network.
        sizes: The batch sizes that are timed.

    Raises:
        QuantizationError: If a quantized network is not what its method promises.
        BenchmarkError: If a runtime cannot execute a network, or computes something else.
    """
    made: dict[int, Contestant] = {}
    with threads(experiment.benchmark.threads):  # a compiled network runs with the threads it was compiled with
        for at in sorted(range(len(found)), key=lambda at: not found[at].runtime.exports):
            with _named(found[at].runtime, experiment):
                made[at] = _contestant(found[at], experiment, data, counted, sizes)
    return [(found[at], made[at]) for at in sorted(made)]


def recipe_of(recipe: Recipe, contestant: Contestant, sizes: Iterable[int]) -> Recipe:
    """Return the recipe that rebuilds a contestant from its stored state; `recipe` is that of the run."""
    runtime, inspected = contestant.runtime, contestant.inspected
    fixed = tuple(sorted({PREDICT_BATCH, *sizes})) if inspected and inspected.batch_size else ()
    file = contestant.exported or b""
    return replace(recipe, runtime=runtime.name, target=runtime.target, batch_sizes=fixed, exported=file)


def checked(
    experiment: Experiment,
    others: Iterable[tuple[Entry, Contestant]],
    own: Sequence[Contestant],
    stored: Sequence[Kept],
    recipe: Recipe,
    stack: ExitStack,
) -> Iterator[tuple[Contestant, Kept, tuple[Finding, ...]]]:
    """Yield the contestants in further runtimes, each stored until `stack` is closed, and what its checks found.

    A network that is also one of `own`, those in the runtime of the run, has been checked. Its file is stored with it.

    Raises:
        CheckError: If a network that was quantized for another form does not compute what it should.
    """
    for entry, other in others:
        with _named(entry.runtime, experiment):
            at = next((at for at, one in enumerate(own) if one.network is other.network), None)
            if at is not None and (entry.only_timed or not other.exported):
                yield other, stored[at], ()
                continue
            made: list[Kept] = []
            keep_other = partial(keep, other.network, recipe_of(recipe, other, experiment.batch_size), stack, made)
            found: tuple[Finding, ...] = ()
            if at is None:
                pair, both, count = (own[0], other), (Kept, keep_other), experiment.benchmark.threads
                found = check_networks(experiment.quant, entry.work, entry.made, pair, both, count)
            else:
                keep_other()
            yield other, made[0], tuple(replace(each, text=f"in {entry.runtime.name}: {each.text}") for each in found)


def _quantized_in(runtime: Runtime, experiment: Experiment, work: Work, made: Quantized) -> Entry | None:
    """Return the quantized network in the form for a further runtime, None if it is not executed there."""
    quant, name = experiment.quant, f"runtime={runtime.name} "
    for fault in runtime.combination_faults(quant, str(experiment.precision)):
        rule = fault.rule if isinstance(fault, Mismatch) else fault
        _say_left_out(runtime, f"it {rule.removeprefix(name)}" if rule.startswith(name) else rule)
        return None
    if runtime.target == work.form.target or not isinstance(quant, ByLayer):
        return Entry(made, runtime, work)
    form, baseline = replace(work.form, target=runtime.target), work.baseline.without_training()
    again = replace(work, baseline=baseline, form=form, advise=False, executes=runtime.executes)
    with _named(runtime, experiment):
        try:
            return Entry(quantize(quant, again), runtime, again)
        except UntrainedError:
            _say_left_out(runtime, f"quant={quant.name} would have to train another network for it")
    return None


def _contestant(
    entry: Entry, experiment: Experiment, data: TaskData, counted: Account, sizes: Sequence[int]
) -> Contestant:
    made, runtime, some = entry.made, entry.runtime, data.evaluated.some(PREDICT_BATCH)
    timed = [data.evaluated.first(count) for count in sizes]
    if entry.only_timed:
        batches = timed if runtime.fixed else [some]
        earlier = tuple(prepare(runtime, made.model, batch) for batch in batches if runtime.exports)
        return Contestant(made.model, "fp32", runtime, UNINSPECTED, made.training, earlier=earlier)
    precision = "fp32" if made.promise is None else str(experiment.precision)
    engine = experiment.quant.packs_for if made.promise else None
    prepared = prepare(runtime, made.model, some, engine)
    evidence = inspect(made, prepared.operators(), engine, counted, prepared.in_float)
    contestant = Contestant(made.model, precision, runtime, evidence, made.training, engine, prepared)
    if not (runtime.exports and runtime.fixed):
        return contestant
    return replace(contestant, earlier=tuple(contestant.prepared(batch) for batch in timed))


@contextmanager
def _named(runtime: Runtime, experiment: Experiment) -> Iterator[None]:
    """Say in an error which further runtime has it."""
    try:
        yield
    except QuantizationError as error:
        if runtime.name == experiment.runtime.name:
            raise
        raise QuantizationError(
            f"benchmark.runtimes must name runtimes in which the quantized network passes all checks, it fails in "
            f"{runtime.name}: {error}; leave {runtime.name} out of benchmark.runtimes"
        ) from error


def _say_left_out(runtime: Runtime, reason: str) -> None:
    log.info("measure   runtime %s executes the float network alone: %s", runtime.name, reason)
