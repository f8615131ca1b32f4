"""Which runtime executes a network fastest, in which form: float, or quantized by one of the methods.

Networks of different runs are compared through the float network in eager execution, which each of them was timed
against. Two networks of one run are compared directly, as they were timed in turns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantexp.analysis.names import setup_names
from quantexp.analysis.ratios import Ratio, over_float, over_runtime, over_seeds_of
from quantexp.analysis.settings import Settings, settings_text
from quantexp.analysis.variants import Setup, Variant, variants
from quantexp.config import OVER_TORCH_AO
from quantexp.results import Measured
from quantexp.results.sweep import SweepResult

EAGER = "eager"
FLOW = "quant.flow"
FLOAT = "float"


@dataclass(frozen=True)
class Executed:
    """A network in a runtime, with its speedup over the float network in eager execution.

    `method` is "float" for the float network. `variant` has the run that timed it. Of a quantized network, `direct` is
    the speedup over the float network in the same runtime and run, and `measured` has its figures, one for each seed.
    """

    variant: Variant
    method: str
    runtime: str
    ratio: Ratio
    unstable: bool
    direct: Ratio | None = None
    measured: tuple[Measured, ...] = ()

    @property
    def name(self) -> str:
        """Method and runtime: `static int8 pt2e in onnxruntime`."""
        return f"{self.method} in {self.runtime}"

    @property
    def is_torch_ao(self) -> bool:
        """Whether this is int8 of torch.ao in eager execution."""
        flow = dict(self.variant.settings).get(FLOW) or next(iter(self.variant.reports.values())).flow
        int8 = self.method != FLOAT and self.variant.precision == "int8"
        return self.runtime == EAGER and int8 and flow in OVER_TORCH_AO


@dataclass(frozen=True)
class Cell:
    """A network of a task at one batch size in one setup, in all runtimes that executed it, the fastest first."""

    task: str
    settings: Settings
    setup: Setup
    size: int
    ranked: tuple[Executed, ...]

    @property
    def fastest(self) -> Executed:
        """The fastest network."""
        return self.ranked[0]

    @property
    def torch_ao(self) -> Executed | None:
        """The fastest int8 network of torch.ao in eager execution."""
        return next((network for network in self.ranked if network.is_torch_ao), None)

    @property
    def best_float(self) -> Executed:
        """The fastest float network."""
        return next(network for network in self.ranked if network.method == FLOAT)

    def over(self, other: Executed) -> Ratio | None:
        """Return the speedup of the fastest network over another network, None if that is the fastest."""
        return None if other is self.fastest else between(self.fastest, other)

    @property
    def alike(self) -> tuple[Executed, ...]:
        """The networks without a significant difference to the fastest."""
        return tuple(network for network in self.ranked[1:] if not between(self.fastest, network).significant)


def between(network: Executed, other: Executed) -> Ratio:
    """Return the speedup of one network over another, both at the same batch size."""
    own = network.variant is other.variant and other.method == FLOAT and network.method != FLOAT
    if own and network.runtime == other.runtime and network.direct:
        return network.direct
    first, second = network.ratio, other.ratio
    reach = None
    if first.reach is not None and second.reach is not None:
        reach = math.hypot(first.reach, second.reach)  # the runs are separate, so their errors are independent
    return Ratio(first.centre - second.centre, reach, max(first.margin, second.margin))


def cells(sweep: SweepResult) -> list[Cell]:
    """Return the cells of a sweep that executed networks in several runtimes; empty if it did not."""
    grouped: dict[tuple[str, Settings, Setup], list[Variant]] = defaultdict(list)
    for variant in variants(sweep):
        if variant.setup:
            settings = tuple(pair for pair in variant.network if pair[0].partition(".")[0] != "runtime")
            grouped[variant.task, settings, variant.setup].append(variant)
    found = []
    for (task, settings, setup), together in grouped.items():
        for size in sorted({size for variant in together for size in variant.sizes}):
            ranked = sorted(_executed(together, size), key=lambda network: -network.ratio.centre)
            if len({network.runtime for network in ranked}) > 1 and any(network.method == FLOAT for network in ranked):
                found.append(Cell(task, settings, setup, size, tuple(ranked)))
    return found


def sentences(sweep: SweepResult) -> Iterator[str]:
    """Yield for each cell what is fastest, and by how much it beats the usual ones."""
    every = cells(sweep)
    names = setup_names(list(dict.fromkeys(cell.setup for cell in every)))
    for cell in every:
        where = ", ".join(text for text in (settings_text(cell.settings), names[cell.setup]) if text)
        compared = [f"{cell.fastest.ratio} over float in eager execution"]
        for what, other in (("int8 of torch.ao", cell.torch_ao), ("the fastest float", cell.best_float)):
            if other and (ratio := cell.over(other)):
                compared.append(f"{ratio} over {what} ({other.name})")
        alike = (
            f" (no significant difference to {', '.join(network.name for network in cell.alike)})" if cell.alike else ""
        )
        title = f"{cell.task}{f' ({where})' * bool(where)}"
        yield f"{title}: at batch {cell.size}, {cell.fastest.name} is fastest{alike}: {', '.join(compared)}."


def _executed(together: Sequence[Variant], size: int) -> Iterator[Executed]:
    """Yield each network that was timed at a batch size, in the runtime of its run and in further ones.

    Of the same network in the same runtime the first run counts, first of those whose own runtime it is.
    """
    found: dict[tuple[str, str], Executed] = {}
    for executed in (_in_own_runtime, _in_further_runtimes):
        for network in (network for variant in together for network in executed(variant, size)):
            found.setdefault((network.method, network.runtime), network)
    yield from found.values()


def _in_own_runtime(variant: Variant, size: int) -> Iterator[Executed]:
    reports = variant.reports.values()
    runtime = next(iter(reports)).runtime
    named, unstable = _named(variant, runtime), variant.unstable(size)
    if ratio := _float_ratio(variant, runtime, size):
        yield Executed(variant, FLOAT, named, ratio, unstable)
    direct = over_float(variant, size)
    over = direct if runtime == EAGER else over_runtime(variant, EAGER, size)
    if over and not variant.is_float:
        results = tuple(report.result for report in reports)
        yield Executed(variant, variant.method, named, over, unstable, direct, results)


def _in_further_runtimes(variant: Variant, size: int) -> Iterator[Executed]:
    """Yield the quantized network in further runtimes, each with the float network beside it."""
    unstable = variant.unstable(size)
    for runtime in variant.elsewhere:
        if ratio := _further_float_ratio(variant, runtime, size):
            yield Executed(variant, FLOAT, runtime, ratio, unstable)
        if over := over_seeds_of(variant.eager_speedups_in(runtime, size)):
            direct = over_seeds_of(variant.speedups_in(runtime, size))
            results = tuple(other.measured for other in variant.quantized_in(runtime).values())
            yield Executed(variant, variant.method, runtime, over, unstable, direct, results)


def _further_float_ratio(variant: Variant, runtime: str, size: int) -> Ratio | None:
    """Return the speedup of the float network in a further runtime over that in eager execution."""
    if runtime == EAGER:
        return Ratio(0.0, 0.0, 0.0) if size in variant.sizes else None
    over = over_seeds_of(variant.float_speedups_in(runtime, size))  # over the runtime of the run
    own = _float_ratio(variant, next(iter(variant.reports.values())).runtime, size)
    if over is None or own is None:
        return None
    reach = None if over.reach is None or own.reach is None else math.hypot(over.reach, own.reach)
    return Ratio(over.centre + own.centre, reach, max(over.margin, own.margin))


def _float_ratio(variant: Variant, runtime: str, size: int) -> Ratio | None:
    """Return the speedup of the float network in the runtime over that in eager execution, None if not measured."""
    if runtime == EAGER:
        return Ratio(0.0, 0.0, 0.0) if size in variant.sizes else None
    ratio = over_seeds_of(variant.eager_speedups(size))
    return Ratio(-ratio.centre, ratio.reach, ratio.margin) if ratio else None


def _named(variant: Variant, runtime: str) -> str:
    """Return the runtime with its settings that vary."""
    own = [
        f"{name.removeprefix('runtime.')}={value}" for name, value in variant.settings if name.startswith("runtime.")
    ]
    return " ".join([runtime, *own])
