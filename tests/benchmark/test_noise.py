from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from quantexp.benchmark import noise
from quantexp.benchmark.noise import Clock, Load, reasons
from quantexp.results import Latency

pytestmark = pytest.mark.serial

CORES = 4
QUIET = Load(seconds=2.0, cores_used=1.0, others_load=0.0, steal=0.0)
SPIN = "import time\nwhile time.process_time() < 0.5: pass"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of four cores."""
    monkeypatch.setattr(noise, "usable_cores", lambda: CORES)
    monkeypatch.setattr(psutil, "cpu_count", lambda: CORES)


def timed(spread: float = 0.1) -> Latency:
    """A latency whose blocks spread by this share of their median, in one placement."""
    return Latency(
        batch_size=1,
        samples_ms=(2.0,) * 4,
        calls_per_sample=1,
        placements=1,
        median_ms=2.0,
        mean_ms=2.0,
        std_ms=0.1,
        p10_ms=2.0 * (1 - spread / 2),
        p90_ms=2.0 * (1 + spread / 2),
        p99_ms=None,
        first_call_ms=9.0,
    )


def load(**changes: float) -> Load:
    return Load(**{**vars(QUIET), **changes})


# The reasons


def test_on_a_quiet_machine_there_is_no_reason() -> None:
    assert reasons(QUIET, 1, [timed(), timed()]) == ()
    assert reasons(load(cores_used=4.2, others_load=0.39, steal=0.009), 4, [timed(0.49)]) == ()


def test_other_processes_are_a_reason_if_they_keep_more_than_a_tenth_of_the_cores_busy() -> None:
    assert reasons(load(others_load=0.41), 1, [timed()]) == ("other processes kept 0.4 of 4 cores busy",)
    assert reasons(load(others_load=2.96), 1, [timed()]) == ("other processes kept 3.0 of 4 cores busy",)


def test_a_tenth_is_of_the_cores_of_the_host_not_of_those_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda: 64)
    assert reasons(load(others_load=6.3), 1, [timed()]) == ()
    assert reasons(load(others_load=6.5), 1, [timed()]) == ("other processes kept 6.5 of 64 cores busy",)


def test_what_the_hypervisor_takes_is_a_reason_from_one_per_cent_on() -> None:
    assert reasons(load(steal=0.01), 1, [timed()]) == ()
    assert reasons(load(steal=0.034), 1, [timed()]) == ("the hypervisor took 3% of the CPU time",)


def test_more_threads_than_cores_are_a_reason() -> None:
    assert reasons(load(cores_used=4.0), 5, [timed()]) == ("5 threads share 4 cores",)
    assert reasons(load(cores_used=4.0), 4, [timed()]) == ()


def test_more_cores_in_use_than_threads_were_asked_for_are_a_reason() -> None:
    assert reasons(load(cores_used=1.29), 1, [timed()]) == ()
    assert reasons(load(cores_used=2.4), 2, [timed()]) == ("this process used 2.4 cores for 2 threads",)


def test_blocks_that_spread_by_more_than_half_of_their_median_are_a_reason_whichever_model_they_are_of() -> None:
    assert reasons(QUIET, 1, [timed(0.5)]) == ()
    told = ("the timed blocks spread by 80% of their median",)
    assert reasons(QUIET, 1, [timed(0.8), timed(0.1)]) == told
    assert reasons(QUIET, 1, [timed(0.1), timed(0.6), timed(0.8)]) == told


def placed(*samples_ms: float) -> Latency:
    """A latency of one sample a placement, that spread widely in the short."""
    return replace(timed(0.9), samples_ms=samples_ms, placements=len(samples_ms))


def test_a_speedup_or_a_latency_known_to_a_tenth_only_is_a_reason_however_the_blocks_spread() -> None:
    # Of four placements at distance d from their mean the interval is 3.182 * sqrt(4/3) * d / 2 to either side.
    steady, changing, wild = (placed(*(2 * math.exp(d * sign) for sign in (1, -1, 1, -1))) for d in (0.0, 0.05, 0.1))
    assert reasons(QUIET, 1, [steady, changing]) == ()
    assert reasons(QUIET, 1, [steady, changing, wild]) == ("the speedup is only known to ±20%",)
    assert reasons(QUIET, 1, [wild, wild]) == (), "what both have in common cancels"
    assert reasons(QUIET, 1, [changing]) == ()
    assert reasons(QUIET, 1, [wild]) == ("the latency is only known to ±20%",)


def test_of_a_time_too_short_to_count_the_work_of_cores_only_what_needs_no_counting_is_a_reason() -> None:
    busy = {"cores_used": 9.0, "others_load": 3.0, "steal": 0.5}
    assert reasons(load(seconds=0.19, **busy), 1, [timed()]) == ()
    assert reasons(load(seconds=0.19, **busy), 5, [timed(0.8)]) == (
        "5 threads share 4 cores",
        "the timed blocks spread by 80% of their median",
    )
    assert len(reasons(load(seconds=0.2, **busy), 1, [timed()])) == 3


def test_every_reason_is_told() -> None:
    found = reasons(load(cores_used=9.0, others_load=3.0, steal=0.5), 8, [timed(0.9)])
    begins = ["other processes", "the hypervisor", "8 threads share", "this process used 9.0", "the timed blocks"]
    assert [reason.startswith(begin) for reason, begin in zip(found, begins, strict=True)] == [True] * 5


# The clock


def test_a_clock_tells_the_work_of_this_process_from_its_rest() -> None:
    rest = Clock()
    time.sleep(0.05)
    rested = rest.read()
    work = Clock()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    worked = work.read()
    assert worked.cores_used * worked.seconds == pytest.approx(0.2, abs=0.05)
    assert rested.cores_used * rested.seconds < 0.05
    assert 0 <= rested.steal <= 1
    assert rested.others_load >= 0


def test_a_clock_tells_the_work_of_another_process() -> None:
    clock = Clock()
    subprocess.run([sys.executable, "-c", SPIN], check=True, timeout=120)
    found = clock.read()
    assert found.others_load * found.seconds > 0.4, "the other process computed for half a second"
    assert found.cores_used * found.seconds < 0.4
