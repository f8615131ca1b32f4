"""All self-checks of the networks of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from quantexp.checks import kernels
from quantexp.checks.alternatives import right_one
from quantexp.checks.repeated import check_float, check_quantized, difference
from quantexp.checks.stored import check_stored
from quantexp.checks.traced import batches, check_traced
from quantexp.config import ByLayer, Qat, Quant
from quantexp.quant.flows import flow_of
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods import advising
from quantexp.quant.methods.choice import advice
from quantexp.quant.methods.qat import unrounded
from quantexp.quant.methods.work import Work
from quantexp.results import Finding, LayerLoss
from quantexp.runtimes.contestant import Contestant
from quantexp.storage.kept import Kept
from quantexp.system.errors import CheckError, QuantizationError
from quantexp.tasks.inputs import Batch

EXAMPLES = 16  # of a batch that is compared


def check_graph(option: Quant, work: Work, batch_sizes: Sequence[int]) -> None:
    """Check the graph that the flow of a method traces, before it is quantized.

    Raises:
        CheckError: If it computes something else than the network.
        QuantizationError: If the network cannot be traced.
    """
    if not isinstance(option, ByLayer) or (trace := getattr(flow_of(option), "trace", None)) is None:
        return
    model = work.baseline.model
    inputs = list(batches(work.accepted(sorted({1, 2, *batch_sizes}))))
    if difference(model, inputs[0]):
        return  # a random network differs from itself
    with advising(option, work):
        graphs = [trace(model, work.form.example)]
        if isinstance(option, Qat):
            graphs.append(unrounded(option, model, work.form))
    with _advising(option, work):
        for graph in graphs:
            check_traced(model, graph, inputs)


def is_right(option: Quant, work: Work, network: nn.Module) -> bool:
    """Return whether a network that a method made on trial, calibrated on the example, computes what it should."""
    batch = work.form.example
    try:
        check_graph(option, work, ())
        kernels.check_arithmetic(network, batch, option.packs_for)
    except (CheckError, QuantizationError):
        return False
    if difference(work.baseline.model, batch):
        return True  # a random network differs from itself
    return kernels.output_sqnr_db(work.baseline.model, network, batch) >= kernels.LEAST_SQNR_DB


def check_networks(
    option: Quant,
    work: Work,
    made: Quantized,
    contestants: Sequence[Contestant],
    keeping: Sequence[Callable[[], Kept]],
    threads: int,
) -> tuple[Finding, ...]:
    """Check the float network and, if there is one, the quantized network; return what is noteworthy.

    Args:
        option: The method.
        work: The arguments of the method.
        made: What the method made.
        contestants: The float network, and the quantized one if there is one.
        keeping: Store each of them and read it back, one after the other.
        threads: The threads that are measured with.

    Raises:
        CheckError: If a network does not compute what it should.
    """
    data = work.data
    batch = data.calibration.some(EXAMPLES)
    reference, *quantized = contestants
    random = difference(reference.network, batch)
    findings = [*check_float(random)]
    for contestant in quantized:
        varies = difference(contestant.network, batch)
        check_quantized(varies, random)
        findings += _checked_kernels(option, work, contestant, batch, comparable=not random)
        if made.simulated and not random:
            with _advising(option, work):
                kernels.check_converted(contestant.network, *made.simulated)
        random = max(random, varies)
    inputs = list(work.accepted((1, EXAMPLES)))
    for contestant, keep in zip(contestants, keeping, strict=True):
        loaded = keep().network
        if loaded is not None:
            check_stored(contestant.network, loaded, inputs, random, threads, contestant.engine)
        del loaded  # before the next one is read
    return tuple(findings)


def poor_layers(option: Quant, layers: Sequence[LayerLoss]) -> Iterator[Finding]:
    """Yield a finding if outputs of layers have little in common with those of the float network."""
    if (poor := kernels.poor_layers(layers)) and not _learns(option):
        yield kernels.of_poor_layers(poor)


def _checked_kernels(
    option: Quant, work: Work, contestant: Contestant, batch: Batch, *, comparable: bool
) -> Iterator[Finding]:
    """Check the kernels of a quantized network; the error says what is right on this machine.

    The outputs of two networks are only `comparable` if they are not random.
    """
    try:
        kernels.check_arithmetic(contestant.network, batch, contestant.engine, comparable=comparable)
    except kernels.WrongKernelsError as error:
        least = None if _learns(option) else kernels.LEAST_SQNR_DB
        if not work.advise:
            raise
        raise _with_repair(error, right_one(option, work, batch, error.layers, least)) from error
    if _learns(option) or not comparable:
        return  # other weights give other outputs
    ratio = kernels.output_sqnr_db(work.baseline.model, contestant.network, batch)
    if ratio >= kernels.LEAST_SQNR_DB:
        return
    finding = kernels.poor_output(ratio)
    if better := right_one(option, work, batch, (), ratio + kernels.BETTER_DB):
        raise _with_repair(CheckError("kernels", finding.text), better)
    yield finding


@contextmanager
def _advising(option: Quant, work: Work) -> Iterator[None]:
    """Add to the error of a check what quantizes the network instead, which is tried."""
    try:
        yield
    except CheckError as error:
        if not work.advise:
            raise
        raise CheckError(error.check, f"{error}; {advice(option, work)}") from error


def _learns(option: Quant) -> bool:
    """Return whether the method changes the weights by training, so that outputs differ rightly."""
    return option.learns or option.name == "amp"


def _with_repair(error: CheckError, better: str | None) -> CheckError:
    repair = f"use {better}, which is right here" if better else "use another method: no engine or flow of it is right"
    return CheckError(error.check, f"{error}; {repair}")
