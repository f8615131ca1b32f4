from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp.benchmark.calls import Placed
from quantexp.benchmark.latency import Timing, time_models
from quantexp.benchmark.paired import _Block, _Looks, _rounds, _unit
from quantexp.config import Benchmark, Dynamic, Eager, Engine, Lab, Paired
from quantexp.models.mlp import MLP
from quantexp.quant.engine import supported_engines
from quantexp.results import Latency
from quantexp.runtimes import prepare
from quantexp.runtimes.prepared import Prepared
from quantexp.system.environment import threads, usable_cores
from quantexp.system.errors import BenchmarkError
from quantexp.tasks.data import Tensors
from tests.networks import made

pytestmark = pytest.mark.serial

EXAMPLES, FEATURES = 20, 5
ENGINES = [Engine(name) for name in supported_engines()]
BATCHES = 8  # distinct ones that the calls rotate over


def split() -> Tensors:
    """Examples that can be told apart: the first input of each is its number."""
    values = torch.rand(EXAMPLES, FEATURES, generator=torch.Generator().manual_seed(0))
    values[:, 0] = torch.arange(EXAMPLES)
    return Tensors(torch.arange(EXAMPLES) % 2, (values,))


class Recorder:
    """What the copies of a model were called with: they share it."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []

    def __deepcopy__(self, memo: object) -> Recorder:
        return self


class Recorded(nn.Module):
    """A network that notes its inputs, in whichever copy."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.network = MLP(FEATURES, [4], 2)

    def forward(self, x: Tensor) -> Tensor:
        self.recorder.inputs.append(x)
        logits: Tensor = self.network(x)
        return logits


def prepared(model: nn.Module, engine: Engine | None = None) -> Prepared:
    return prepare(Eager(), model, split().first(1), engine)


def timing(batch_size: int, protocol: Benchmark, models: int = 2) -> tuple[Timing, list[Recorder]]:
    recorders = [Recorder() for _ in range(models)]
    contestants = [prepared(Recorded(one).eval()) for one in recorders]
    return time_models(contestants, split(), batch_size, protocol), recorders


def timed(batch_size: int, protocol: Benchmark, models: int = 2) -> tuple[tuple[Latency, ...], list[Recorder]]:
    found, recorders = timing(batch_size, protocol, models)
    return found.latencies, recorders


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# Samples


def test_paired_takes_the_same_number_of_rounds_in_every_placement_for_every_model() -> None:
    latencies, _ = timed(4, Paired(placements=3, seconds=0.1), models=3)
    (placements,) = {one.placements for one in latencies}
    (count,) = {len(one.samples_ms) for one in latencies}
    assert placements >= 2
    assert count % placements == 0
    assert count // placements % 2 == 0, "rounds in opposite orders come in pairs"
    assert len({one.calls_per_sample for one in latencies}) == 1
    assert {one.batch_size for one in latencies} == {4}


def test_paired_ends_when_the_interval_is_narrow_and_says_so() -> None:
    found, _ = timing(4, Paired(placements=4, narrow=1000.0, margin=1.0, seconds=60.0))  # 1: anything up to twice
    assert found.conditions.ended_by == "narrow"
    assert {one.placements for one in found.latencies} == {4}, "the least number, as any interval is narrow enough"


def test_paired_ends_when_the_seconds_are_spent_and_says_so() -> None:
    found, _ = timing(4, Paired(placements=1000, seconds=0.05, extend=1.0))
    assert found.conditions.ended_by == "budget"
    placements = found.latencies[0].placements
    assert 2 <= placements < 1000
    assert found.conditions.seconds * (placements + 1) / placements > 0.05, "one more would have taken too long"


# Ratios by placement. The interval of OPEN is 3.182 * 0.735 % / 2 = 1.17 % to either side.
SURE, OPEN, WAVERING = [2.0, 2.02, 1.98, 2.01], [1.0, 1.009, 0.991, 1.0], [1.0, 1.04, 0.97, 1.02]


def looked(ratios: list[float], seconds: float, looks: _Looks | None = None, **settings: float) -> str | None:
    """What ends a measurement with these ratios after so many seconds, of a budget of 2 that can be extended to 8."""
    placements = [[[ratio] * 2, [1.0] * 2] for ratio in ratios]
    return (looks or _Looks(Paired(placements=4, **settings))).ended(placements, seconds)  # type: ignore[arg-type]


def test_within_its_time_a_measurement_ends_only_when_narrow_and_decided() -> None:
    assert looked(SURE, 0.5, narrow=0.05) == "narrow"
    assert looked(SURE, 0.5, narrow=0.001) is None
    assert looked([1.01, 1.0101, 1.0099, 1.01], 0.5, narrow=0.05) is None, "it ends on both sides of the margin"


def test_when_its_time_is_spent_a_measurement_goes_on_only_while_it_decides_nothing() -> None:
    assert looked(SURE, 2.1, narrow=0.001) == "decided"
    assert looked(OPEN, 2.1) is None
    assert looked(OPEN, 5.0) is None
    assert looked(OPEN, 6.5) == "budget", "a fifth placement would take more than 8 seconds in all"
    assert looked(OPEN, 2.1, extend=1.0) == "budget"


def test_a_measurement_ends_that_would_decide_nothing_in_all_its_time() -> None:
    assert looked(WAVERING, 1.9) is None
    assert looked(WAVERING, 2.1) == "undecided", "half as wide, the interval still reaches beyond the margin"
    assert looked(OPEN, 2.1, extend=1.4) == "undecided"


def test_the_interval_is_looked_at_a_few_times_only() -> None:
    looks = _Looks(Paired(placements=4, narrow=0.05))
    assert looked(WAVERING, 0.1, looks) is None
    assert looked(SURE, 0.2, looks) is None, "the next look is at five placements"
    assert looked([*SURE, 2.0], 0.3, looks) == "narrow"
    looks = _Looks(Paired(placements=100))
    assert looked(SURE, 2.0, looks) == "decided", "there is a look when the time is spent"


class Named:
    """A network that notes its calls in a list shared with others."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def __call__(self, *batch: Tensor) -> None:
        self.notes.append(self.name)


@pytest.mark.parametrize("untimed", [False, True])
def test_with_an_untimed_call_each_slice_begins_where_its_network_has_just_been(untimed: bool) -> None:
    notes: list[str] = []
    copies = [Placed(Named(name, notes), [()]) for name in "abc"]
    _unit(copies, _Block(4, 1, untimed=untimed), random.Random(0))
    each = 4 + untimed
    assert len(notes) == 2 * 3 * each, "a unit of one slice has two turns"
    turns = [set(notes[at : at + each]) for at in range(0, len(notes), each)]
    assert [len(names) for names in turns] == [1] * 6, "a slice is all of one network"


@pytest.mark.parametrize(("models", "untimed"), [(1, False), (2, False), (3, True)])
def test_only_more_than_two_networks_have_an_untimed_call(
    models: int, untimed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[_Block] = []
    of = _Block.of

    def noted(*given: Any, **named: Any) -> _Block:
        made.append(of(*given, **named))
        return made[-1]

    monkeypatch.setattr(_Block, "of", noted)
    timed(1, Paired(placements=2, seconds=0.01), models)
    assert [block.untimed for block in made] == [untimed]


def test_a_placement_has_the_rounds_that_make_the_interval_narrowest() -> None:
    # 4 times the root of 90 ms, for copying and warming up, over 10 ms, for two rounds of 5 ms
    assert _rounds(_Block(1, 1), 0.09, 0.005) == 2 * 12
    assert _rounds(_Block(5, 2), 0.09, 0.01) == 12, "with two slices a single round is balanced"
    assert _rounds(_Block(1, 1), 1e-6, 10.0) == 2
    assert _rounds(_Block(1, 1), 10.0, 1e-6) == 100


class Sleeper(nn.Module):
    """A network that does not compute: for the operating system it looks like one that was interrupted."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(1e-3)
        return x


def test_rounds_that_were_interrupted_are_measured_again_three_times_and_that_is_recorded() -> None:
    with threads(1):
        found = time_models([prepared(Sleeper()), prepared(Sleeper())], split(), 4, Paired(placements=2, seconds=0.05))
    assert found.conditions.repeated == 3 / 4


def test_with_no_time_at_all_there_still_is_an_interval() -> None:
    found, _ = timing(4, Paired(seconds=1e-9))
    assert {one.placements for one in found.latencies} == {2}, "two placements are the least that have a spread"


def test_a_model_without_another_to_compare_with_is_measured_by_the_protocol_alone() -> None:
    found, _ = timing(4, Paired(placements=3, seconds=60.0), models=1)
    assert found.conditions.ended_by == "protocol"
    assert found.latencies[0].placements == 3


@pytest.mark.parametrize("calls", [1, 7, 1000])
def test_a_block_has_at_least_the_calls_that_were_asked_for(calls: int) -> None:
    latencies, _ = timed(4, Paired(placements=2, seconds=0.01, calls=calls))
    assert all(one.calls_per_sample >= calls for one in latencies)


def test_the_first_call_is_measured_apart() -> None:
    class Lazy(nn.Module):
        """Sets itself up in its first call, in whichever copy."""

        def __init__(self) -> None:
            super().__init__()
            self.ready = Recorder()

        def forward(self, x: Tensor) -> Tensor:
            if not self.ready.inputs:
                self.ready.inputs.append(torch.linalg.svd(torch.rand(400, 400)).S)
            return x

    for protocol in (Paired(placements=2, seconds=0.01), Lab()):
        (one,) = time_models([prepared(Lazy())], split(), 4, protocol).latencies
        assert one.first_call_ms > 10 * one.median_ms, "a decomposition against nothing at all"


def test_what_goes_on_beside_is_recorded() -> None:
    with threads(1):
        found, _ = timing(4, Paired(placements=2, seconds=0.2))
    assert found.conditions.batch_size == 4
    assert found.conditions.threads == 1
    assert found.conditions.cores_used > 0
    assert found.conditions.others_load >= 0
    assert 0 <= found.conditions.steal <= 1


def test_lab_takes_exactly_its_repeats_after_one_warm_up() -> None:
    latencies, recorders = timed(4, Lab(repeats=7))
    for one, recorder in zip(latencies, recorders, strict=True):
        assert len(one.samples_ms) == 7
        assert (one.calls_per_sample, one.placements) == (1, 1)
        assert len(recorder.inputs) == 7 + 1


@pytest.mark.parametrize("protocol", [Paired(placements=2, seconds=0.01), Lab()], ids=["paired", "lab"])
def test_samples_are_times_and_the_summary_is_theirs(protocol: Benchmark) -> None:
    latencies, _ = timed(4, protocol)
    for one in latencies:
        assert min(one.samples_ms) > 0
        assert min(one.samples_ms) <= one.p10_ms <= one.median_ms <= one.p90_ms <= max(one.samples_ms)
        assert one.mean_ms == pytest.approx(sum(one.samples_ms) / len(one.samples_ms))


@pytest.mark.parametrize("protocol", [Paired(placements=2, seconds=0.01), Lab()], ids=["paired", "lab"])
def test_one_model_can_be_timed_alone(protocol: Benchmark) -> None:
    latencies, _ = timed(4, protocol, models=1)
    assert len(latencies) == 1


def test_the_models_take_turns_and_each_comes_first_as_often_as_the_other() -> None:
    order: list[int] = []

    class Turn(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, x: Tensor) -> Tensor:
            order.append(self.number)
            return x

    found = time_models(
        [prepared(Turn(number)) for number in (0, 1)], split(), 4, Paired(placements=2, seconds=1e-9)
    ).latencies
    calls, rounds = found[0].calls_per_sample, len(found[0].samples_ms) // 2
    last = order[-2 * calls * rounds :]  # the rounds of the last placement
    blocks = [last[start : start + calls] for start in range(0, len(last), calls)]
    assert all(len(set(block)) == 1 for block in blocks), "a block is of one model"
    turns = [(blocks[index][0], blocks[index + 1][0]) for index in range(0, len(blocks), 2)]
    assert turns.count((0, 1)) == turns.count((1, 0)) == rounds / 2


# Inputs


@pytest.mark.parametrize(
    ("protocol", "distinct"), [(Paired(placements=2, seconds=0.01), 5), (Lab(), 1)], ids=["paired", "lab"]
)
def test_inputs_are_rows_of_the_test_split_in_batches(protocol: Benchmark, distinct: int) -> None:
    _, recorders = timed(4, protocol)
    data = split()
    for recorder in recorders:
        batches = {tuple(batch[:, 0].long().tolist()): batch for batch in recorder.inputs}
        assert len(batches) == distinct, "twenty examples make five batches of four, lab takes the first"
        for rows, batch in batches.items():
            assert rows == tuple(range(rows[0], rows[0] + 4))
            assert torch.equal(batch, data.values[0][list(rows)])


@pytest.mark.parametrize("protocol", [Paired(placements=2, seconds=0.01), Lab()], ids=["paired", "lab"])
def test_a_batch_that_exceeds_the_split_begins_again_at_its_first_row(protocol: Benchmark) -> None:
    _, recorders = timed(50, protocol)
    for recorder in recorders:
        first = recorder.inputs[0]
        assert first.shape == (50, FEATURES)
        assert first[:, 0].long().tolist() == [row % EXAMPLES for row in range(50)]
        assert {batch.shape for batch in recorder.inputs} == {(50, FEATURES)}


def test_a_batch_that_does_not_divide_the_split_wraps_around() -> None:
    _, recorders = timed(7, Paired(placements=2, seconds=0.01))
    rows = [batch[:, 0].long().tolist() for batch in recorders[0].inputs[1:4]]  # behind the first call
    assert rows == [list(range(7)), list(range(7, 14)), [14, 15, 16, 17, 18, 19, 0]]


@pytest.mark.parametrize("protocol", [Paired(placements=2, seconds=0.01), Lab()], ids=["paired", "lab"])
def test_every_model_is_called_with_the_same_inputs(protocol: Benchmark) -> None:
    _, recorders = timed(4, protocol)
    first, second = ({id(batch) for batch in recorder.inputs} for recorder in recorders)
    assert first == second


# The models and the protocol


@pytest.mark.parametrize("protocol", [Paired(placements=2, seconds=0.01), Lab()], ids=["paired", "lab"])
def test_the_models_are_left_as_they_were(protocol: Benchmark) -> None:
    models = [MLP(FEATURES, [4], 2).eval() for _ in range(2)]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    storages = [[tensor.data_ptr() for tensor in model.parameters()] for model in models]
    time_models([prepared(model) for model in models], split(), 4, protocol)
    for model, state, places in zip(models, before, storages, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert [tensor.data_ptr() for tensor in model.parameters()] == places
        assert not model.training
        assert all(parameter.grad is None and not parameter.is_inference() for parameter in model.parameters())
    logits = models[0](split().values[0])
    assert logits.requires_grad, "gradients are on again"


def test_paired_copies_the_models_afresh_in_every_placement() -> None:
    @dataclass
    class Count:
        copies: int = 0

        def __deepcopy__(self, memo: object) -> Count:
            self.copies += 1
            return self

    class Copied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = Count()

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = Copied()
    (found,) = time_models([prepared(model)], split(), 4, Paired(placements=4, seconds=60.0)).latencies
    assert model.count.copies == found.placements == 4


@pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")  # once a process
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_timed_computes_as_the_model_does_with_the_engine_it_was_converted_for(engine: Engine) -> None:
    class Kept(nn.Module):
        """Keeps what its copies give, in whichever copy."""

        def __init__(self) -> None:
            super().__init__()
            self.given = Recorder()
            network = MLP(FEATURES, [64, 64], 10).eval()
            self.network = made(Dynamic(engine=engine), network, "int8", split().values[0])

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.network(x)
            self.given.inputs.append(logits)
            return logits

    model = Kept()
    with torch.no_grad():
        expected = model(split().values[0])
    model.given.inputs.clear()
    time_models([prepared(model, engine)], split(), EXAMPLES, Paired(placements=2, seconds=1e-9))
    assert len(model.given.inputs) > BATCHES
    assert all(torch.equal(given, expected) for given in model.given.inputs)


def test_a_protocol_that_is_not_known_is_an_error_that_names_it() -> None:
    class Another(Benchmark):
        name = "another"

    with pytest.raises(BenchmarkError, match="must be a Paired or a Lab, got Another"):
        timed(4, Another())


# Threads


def test_threads_are_set_and_put_back(two_threads: None) -> None:
    with threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_threads_are_put_back_after_a_failure(two_threads: None) -> None:
    with pytest.raises(ZeroDivisionError), threads(1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let torch compute with three threads whatever it is told; the numbers that it is told."""
    numbers: list[int] = []
    set_threads: Callable[[int], None] = numbers.append
    monkeypatch.setattr(torch, "set_num_threads", set_threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    return numbers


def test_torch_computing_with_other_threads_than_it_was_told_is_an_error_that_names_both(told: list[int]) -> None:
    with pytest.raises(BenchmarkError, match="must compute with 5 threads, it uses 3"), threads(5):
        pytest.fail("nothing may be measured")
    assert told[0] == 5


def test_threads_are_put_back_when_torch_computes_with_others(told: list[int]) -> None:
    with pytest.raises(BenchmarkError), threads(5):
        pytest.fail("nothing may be measured")
    assert told == [5, 3]


def test_a_limit_of_openmp_below_the_threads_asked_for_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    with pytest.raises(BenchmarkError, match="with 2 threads, OMP_THREAD_LIMIT=1 allows fewer"), threads(2):
        pytest.fail("nothing may be measured")
    assert usable_cores() == 1
