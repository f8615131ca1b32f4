"""The energy of networks, with a counter whose power is known."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quantexp.benchmark import energy as blocks
from quantexp.benchmark import latency
from quantexp.benchmark.calls import Placed
from quantexp.benchmark.energy import (
    BLOCK_SECONDS,
    LEAST_PLACEMENTS,
    MOST_PLACEMENTS,
    RETRIES,
    STOPPED,
    Blocks,
    missing,
)
from quantexp.benchmark.latency import time_models
from quantexp.config import Dynamic, Eager, Experiment, Lab, Paired
from quantexp.mission import run
from quantexp.results.metrics import metrics
from quantexp.runtimes import prepare
from quantexp.runtimes.prepared import Prepared
from quantexp.system.energy import Counter, Meter
from quantexp.system.environment import threads
from quantexp.tasks.data import Tensors

pytestmark = pytest.mark.serial

BATCH = 4
RANGE_UJ = 2**40
MOST_SECONDS = 60.0
EXAMPLES = Tensors(None, (torch.rand(BATCH, 3),))
INPUTS = [EXAMPLES.first(BATCH)]
NONE = Meter((), "there is no counter")


@dataclass
class Package:
    """A CPU package: its clock stands still except in the networks, which add their time and their energy."""

    milliseconds: float = 0.0
    microjoules: float = 0.0
    updated_every_ms: float = 0.0
    seen: float = 0.0
    reads: int = 0

    def __deepcopy__(self, memo: object) -> Package:
        return self

    def work(self, milliseconds: float, watts: float) -> None:
        """Use energy; the counter is updated at whole multiples of its period."""
        step = self.updated_every_ms
        self.microjoules += 1e3 * milliseconds * watts
        self.milliseconds += milliseconds
        if step == 0:
            self.seen = self.microjoules
        elif math.floor(self.milliseconds / step) > math.floor((self.milliseconds - milliseconds) / step):
            self.seen = self.microjoules - 1e3 * watts * (self.milliseconds % step)

    def read(self, file: Path) -> int:
        self.reads += 1
        return round(self.seen) % RANGE_UJ

    @property
    def meter(self) -> Meter:
        return Meter((Counter("package-0", Path("energy_uj"), RANGE_UJ),), read=self.read)


class Using(nn.Module):
    """A network that uses `watts` of a package for `milliseconds` in each call."""

    def __init__(self, package: Package, milliseconds: float, watts: float) -> None:
        super().__init__()
        self.package, self.milliseconds, self.watts = package, milliseconds, watts

    def forward(self, x: Tensor) -> Tensor:
        self.package.work(self.milliseconds, self.watts)
        return x


def placed(*networks: nn.Module) -> list[Placed]:
    return [Placed(network, INPUTS) for network in networks]


def prepared(*networks: nn.Module) -> list[Prepared]:
    return [prepare(Eager(), network, INPUTS[0]) for network in networks]


def test_the_energy_of_each_network_is_its_power_times_its_seconds_for_one_example() -> None:
    package = Package()
    slow, fast = Using(package, 0.02, 30.0), Using(package, 0.01, 20.0)
    found = time_models(prepared(slow, fast), EXAMPLES, BATCH, Paired(placements=3, seconds=0.05), package.meter)
    assert found.conditions.no_energy == ""
    for network, timed in zip((slow, fast), found.latencies, strict=True):
        joules = network.watts * network.milliseconds / 1e3 / BATCH
        assert timed.energy is not None
        measured = len(timed.energy.joules_by_placement)  # not in all of them, if it takes too much of the time
        assert min(timed.placements, LEAST_PLACEMENTS) <= measured <= min(timed.placements, MOST_PLACEMENTS)
        assert timed.energy.joules == pytest.approx(joules, rel=0.01)  # the counter has whole microjoules
        assert timed.energy.low_joules <= timed.energy.joules <= timed.energy.high_joules


def test_with_a_clock_of_constant_power_the_energy_is_that_power_times_the_time() -> None:
    """Also of a real clock, whose milliseconds do not fit the calls."""

    class Spinning(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            end = time.perf_counter() + 1e-3
            while time.perf_counter() < end:
                pass
            return x

    def read(file: Path) -> int:
        return 40_000 * math.floor(1e3 * time.perf_counter())  # 40 W, updated every millisecond

    meter = Meter((Counter("package-0", Path("energy_uj"), 2**62),), read=read)
    (timed,) = time_models(prepared(Spinning()), EXAMPLES, BATCH, Paired(placements=5, seconds=9.0), meter).latencies
    assert timed.energy is not None
    least = 40 * 1e-3 / BATCH  # a call takes a millisecond, and longer if something interrupts it
    assert min(timed.energy.joules_by_placement) >= least * 0.95  # one update of twenty
    assert min(timed.energy.joules_by_placement) <= 1.2 * 40 * timed.median_ms / 1e3 / BATCH


def test_the_first_calls_are_not_counted_so_that_an_update_never_brings_energy_of_another_network() -> None:
    package = Package(milliseconds=0.3, updated_every_ms=1.0)
    hungry, frugal = Using(package, 0.25, 200.0), Using(package, 0.25, 10.0)
    measured = Blocks(package.meter, BATCH, [0.25e-3, 0.25e-3], MOST_SECONDS)
    chance = random.Random(0)
    for _ in range(MOST_PLACEMENTS):
        measured.measure(placed(hungry, frugal), chance)
        package.work(0.37, 0.0)  # what else happens in a placement
    for index, network in enumerate((hungry, frugal)):
        joules = network.watts * 0.25e-3 / BATCH
        found = measured.joules[index]
        assert len(found) == MOST_PLACEMENTS
        assert all(abs(each / joules - 1) <= 0.051 for each in found), "one update of twenty"


def test_a_block_lasts_twenty_updates_of_the_counter_and_has_at_least_one_call() -> None:
    package = Package()
    for milliseconds in (0.001, 0.9, 7.0, 300.0):
        measured = Blocks(package.meter, BATCH, [milliseconds / 1e3], MOST_SECONDS)
        before = package.milliseconds
        measured.measure(placed(Using(package, milliseconds, 1.0)), random.Random(0))
        assert package.milliseconds - before >= 1e3 * BLOCK_SECONDS
        assert measured.joules[0][0] == pytest.approx(milliseconds / 1e3 / BATCH, rel=0.01)


def test_a_counter_that_starts_again_from_zero_within_a_block_goes_on_counting() -> None:
    package = Package(microjoules=RANGE_UJ - 10_000.0)
    measured = Blocks(package.meter, BATCH, [1e-3], MOST_SECONDS)
    measured.measure(placed(Using(package, 1.0, 5.0)), random.Random(0))  # a block of 20 ms uses 100,000 microjoules
    assert measured.joules == [[pytest.approx(5e-3 / BATCH)]]


def test_energy_is_measured_in_a_limited_number_of_placements() -> None:
    package = Package()
    measured = Blocks(package.meter, BATCH, [1e-3], MOST_SECONDS)
    for _ in range(MOST_PLACEMENTS + 5):
        measured.measure(placed(Using(package, 1.0, 5.0)), random.Random(0))
    assert len(measured.joules[0]) == MOST_PLACEMENTS
    assert measured.seconds > 0
    hurried = Blocks(package.meter, BATCH, [1e-3], most_seconds=0.0)
    for _ in range(MOST_PLACEMENTS):
        hurried.measure(placed(Using(package, 1.0, 5.0)), random.Random(0))
    assert len(hurried.joules[0]) == LEAST_PLACEMENTS


def test_a_block_that_was_interrupted_is_measured_again_three_times() -> None:
    class Sleeper(nn.Module):
        """For the operating system a network that does not compute was interrupted."""

        def forward(self, x: Tensor) -> Tensor:
            package.work(10.0, 5.0)
            time.sleep(1e-3)
            return x

    package = Package()
    with threads(1):
        Blocks(package.meter, BATCH, [10e-3], MOST_SECONDS).measure(placed(Sleeper()), random.Random(0))
    assert package.milliseconds == 10 * (1 + RETRIES) * (1 + 2), "a call of 3 ms at least before each block of 20 ms"


def test_without_a_counter_nothing_is_run_for_energy_and_the_reason_is_recorded() -> None:
    package = Package()
    measured = Blocks(NONE, BATCH, [1e-3], MOST_SECONDS)
    measured.measure(placed(Using(package, 1.0, 5.0)), random.Random(0))
    assert (package.milliseconds, measured.seconds, measured.result(0)) == (0.0, 0.0, None)
    found = time_models(prepared(nn.Identity()), EXAMPLES, BATCH, Paired(placements=2, seconds=0.01), NONE)
    assert found.conditions.no_energy == "there is no counter"
    assert found.latencies[0].energy is None


def test_a_counter_that_stops_or_can_no_longer_be_read_costs_the_energy_and_nothing_else() -> None:
    package = Package()

    def vanished(file: Path) -> int:
        raise OSError(19, "No such device")

    protocol = Paired(placements=2, seconds=0.01)
    still = time_models(prepared(Using(package, 1.0, 0.0)), EXAMPLES, BATCH, protocol, package.meter)
    assert still.conditions.no_energy == STOPPED
    gone = time_models(prepared(nn.Identity()), EXAMPLES, BATCH, protocol, Meter(package.meter.counters, "", vanished))
    assert gone.conditions.no_energy == "the energy counter can no longer be read ([Errno 19] No such device)"
    for found in (still, gone):
        assert found.latencies[0].energy is None
        assert found.latencies[0].placements >= 2


def test_single_calls_are_too_short_for_the_counter_so_lab_measures_no_energy_and_says_so() -> None:
    package = Package()
    found = time_models(prepared(Using(package, 1.0, 5.0)), EXAMPLES, BATCH, Lab(), package.meter)
    assert found.latencies[0].energy is None
    assert package.reads == 0
    assert found.conditions.no_energy == (
        "benchmark=lab times single calls, which are too short for the counter; use benchmark=paired"
    )
    assert missing(NONE, Lab()) == "there is no counter"


def test_a_run_records_the_energy_of_both_networks_and_their_ratio(
    sample: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(file: Path) -> int:
        return round(25e6 * time.perf_counter())  # 25 W

    meter = Meter((Counter("package-0", Path("energy_uj"), 2**62),), read=read)
    monkeypatch.setattr(latency, "find", lambda: meter)
    report = run(sample(quant=Dynamic())).report
    found = metrics(report)
    for size in (1, 8):
        for side in ("", "float/"):
            joules, low, high = (found[f"{side}energy_b{size}_j{end}"] for end in ("", "_low", "_high"))
            assert 0 < low <= joules <= high
        ratio = found[f"float/energy_b{size}_j"] / found[f"energy_b{size}_j"]
        assert found[f"energy_ratio_b{size}"] == pytest.approx(ratio), "both are geometric means over placements"
    assert report.no_energy == ""


def test_a_run_without_a_counter_says_so_once_for_all_its_batch_sizes(
    sample: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocks.say_missing.cache_clear()
    monkeypatch.setattr(latency, "find", lambda: NONE)
    with caplog.at_level(logging.INFO, logger="quantexp"):
        report = run(sample(quant=Dynamic())).report
    said = [record for record in caplog.records if "energy" in record.getMessage()]
    assert [record.getMessage() for record in said] == ["measure   energy is not measured: there is no counter"]
    assert [record.levelname for record in said] == ["INFO"]
    assert [timed.no_energy for timed in report.conditions] == ["there is no counter"] * 2
    assert not [name for name in metrics(report) if "energy" in name]
