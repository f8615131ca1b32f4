"""Whole results for tests, built by keyword: what a test does not name is plausible and of no matter to it.

The default is a static int8 run of the MNIST MLP at batch sizes 1 and 64, about twice and four times as
fast as the float network; `lone(...)` is a run of one float network, `unlabelled(...)` one on random inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from quantexp.results import (
    Comparison,
    Conditions,
    Data,
    Energy,
    EnergyRatio,
    Evidence,
    Latency,
    Layer,
    LayerLoss,
    Measured,
    Operator,
    OtherFloat,
    OtherQuantized,
    Profile,
    Quality,
    QualityChange,
    Report,
    Size,
    Speedup,
    TimeShare,
    Training,
)
from quantexp.results.identity import Identity
from quantexp.results.machines import MachineFacts, RecordedRun
from quantexp.results.sweep import Entry, SweepResult

FLOAT_MS = {1: 0.227, 64: 1.921}
QUANTIZED_MS = {1: 0.093, 64: 0.467}
FLOAT_SHARES = {"aten::addmm": 0.9, "aten::relu": 0.06, "aten::linear": 0.03}
QUANTIZED_SHARES = {"quantized::linear_relu": 0.7, "aten::quantize_per_tensor": 0.2, "aten::dequantize": 0.05}


def quality(correct: int = 976, total: int = 1000) -> Quality:
    """Two classes, `correct` of `total` right; the interval is the normal one, near enough."""
    value = correct / total
    reach = 1.96 * math.sqrt(value * (1 - value) / total)
    right, wrong = (correct // 2, correct - correct // 2), total - correct
    confusion = ((right[0], wrong), (0, right[1]))
    return Quality("accuracy", value, value - reach, value + reach, correct, total, confusion)


def latency(batch_size: int = 1, median_ms: float = 1.0, **changes: Any) -> Latency:
    """Forty samples that spread by a tenth about the median, in ten placements."""
    one = Latency(
        batch_size=batch_size,
        samples_ms=tuple(median_ms * (0.95 + 0.1 * index / 39) for index in range(40)),
        calls_per_sample=3,
        placements=10,
        median_ms=median_ms,
        mean_ms=1.01 * median_ms,
        std_ms=0.04 * median_ms,
        p10_ms=0.96 * median_ms,
        p90_ms=1.05 * median_ms,
        p99_ms=None,
        first_call_ms=20 * median_ms,
    )
    return dataclasses.replace(one, **changes)


def energy(joules: float) -> Energy:
    """An energy in ten placements, with an interval of 2 % to either side."""
    return Energy(joules, 0.98 * joules, 1.02 * joules, (joules,) * 10)


def with_energy(made: Report, joules: float = 0.004, ratio: float = 2.0) -> Report:
    """The same run with energies: `joules` for an example in float at batch 1, an eighth of it at batch 64."""

    def metered(model: Measured, at_batch_1: float) -> Measured:
        times = (
            dataclasses.replace(timed, energy=energy(at_batch_1 * timed.batch_size**-0.5)) for timed in model.latency
        )
        return dataclasses.replace(model, latency=tuple(times))

    sizes = [timed.batch_size for timed in made.baseline.latency]
    ratios = tuple(EnergyRatio(size, ratio, 0.95 * ratio, 1.05 * ratio, 0.01, (ratio,) * 10) for size in sizes)
    return dataclasses.replace(
        made,
        baseline=metered(made.baseline, joules),
        quantized=made.quantized and metered(made.quantized, joules / ratio),
        comparison=made.comparison and dataclasses.replace(made.comparison, energy_ratios=ratios),
    )


def profile(batch_size: int, shares: Mapping[str, float]) -> Profile:
    """Operators and their shares of the time."""
    return Profile(batch_size, tuple(TimeShare(name, share) for name, share in shares.items()))


def measured(
    precision: str = "fp32",
    *,
    correct: int = 978,
    weight_bytes: Mapping[str, int] | None = None,
    ms: Mapping[int, float] | None = None,
    shares: Mapping[str, float] | None = None,
    **changes: Any,
) -> Measured:
    """One model: `ms` its median latencies by batch size, `shares` of its time alike at each of them."""
    weights = dict(weight_bytes or {"fp32": 5_881_896})
    times = FLOAT_MS if ms is None else ms
    one = Measured(
        precision=precision,
        quality=quality(correct),
        size=Size(sum(weights.values()) + 2_000, sum(weights.values()) + 3_000, weights, 1_470_474),
        evidence=Evidence((Layer("layers.0", "Linear", precision, 8),), (Operator("linear", precision, 3, 1000),), ()),
        profiles=tuple(profile(size, FLOAT_SHARES if shares is None else shares) for size in times),
        latency=tuple(latency(size, median) for size, median in times.items()),
        load_ms=12.0,
        train_seconds=10.0,
        memory_bytes=None,
        loss=0.08,
    )
    return dataclasses.replace(one, **changes)


def speedup(batch_size: int = 1, ratio: float = 2.0, *, spread: float = 0.01, placements: int = 10) -> Speedup:
    """Ratios of the placements within `spread` of `ratio`, and an interval of half that; none of one placement."""
    if placements < 2:
        return Speedup(batch_size, ratio, None, None, 0.01)
    steps = (2 * index / (placements - 1) - 1 for index in range(placements))
    ratios = tuple(ratio * (1 + spread * step**3) for step in steps)  # more of them near the middle
    return Speedup(batch_size, ratio, ratio * (1 - spread / 2), ratio * (1 + spread / 2), 0.01, ratios)


def quality_change(**changes: Any) -> QualityChange:
    """Two examples that were lost in net, of a thousand."""
    change = QualityChange(
        name="accuracy",
        drop=0.002,
        flips_gained=2,
        flips_lost=4,
        p_value=0.6875,
        detectable_drop=0.009,
        gained_examples=(3, 14),
        lost_examples=(1, 5, 9, 26),
    )
    return dataclasses.replace(change, **changes)


def comparison(*, speedups: Sequence[Speedup] | None = None, **changes: Any) -> Comparison:
    """A quantized network that lost two examples in net; `changes` to its fields, and to those of its quality."""
    default = (speedup(1, 2.44), speedup(64, 4.11))
    of_quality = {name: changes.pop(name) for name in QualityChange.__dataclass_fields__ if name in changes}
    one = Comparison(
        quality=quality_change(**of_quality),
        agreement=0.99,
        compression=3.95,
        speedups=default if speedups is None else tuple(speedups),
        not_faster=(),
        training_ratio=None,
        output_sqnr_db=30.0,
    )
    return dataclasses.replace(one, **changes)


def layer_loss(name: str = "layers.0", **changes: Any) -> LayerLoss:
    """An int8 layer whose range was fixed in calibration, and holds all its inputs."""
    one = LayerLoss(
        name=name,
        precision="int8",
        weight_mean_error=0.0003,
        weight_max_error=0.0013,
        weight_sqnr_db=42.5,
        weight_low=-0.32,
        weight_high=0.19,
        input_low=0.0,
        input_high=2.8,
        grid_low=0.0,
        grid_high=2.9,
        clipped=0.0,
        input_sqnr_db=50.0,
        output_sqnr_db=38.0,
    )
    return dataclasses.replace(one, **changes)


def other_float(runtime: str = "compiled", ms: Mapping[int, float] | None = None, **changes: Any) -> OtherFloat:
    """The float network in another runtime, a little faster there than in that of the run."""
    times = {1: 0.18, 64: 1.70} if ms is None else ms
    one = OtherFloat(
        runtime=runtime,
        prepare_seconds=8.0,
        max_difference=1e-6,
        latency=tuple(latency(size, median) for size, median in times.items()),
        speedups=tuple(speedup(size, 1.2) for size in times),
    )
    return dataclasses.replace(one, **changes)


def other_quantized(runtime: str = "compiled", ms: Mapping[int, float] | None = None, **changes: Any) -> OtherQuantized:
    """The quantized network in another runtime, twice as fast as float there and three times as fast as eager float."""
    times = {1: 0.09, 64: 0.85} if ms is None else ms
    one = OtherQuantized(
        runtime=runtime,
        measured=measured("int8", correct=975, ms=times, prepare_seconds=9.0, agreement_with_eager=0.999),
        speedups=tuple(speedup(size, 2.0) for size in times),
        eager_speedups=tuple(speedup(size, 3.0) for size in times),
    )
    return dataclasses.replace(one, **changes)


def conditions(batch_size: int = 1, **changes: Any) -> Conditions:
    """A quiet machine."""
    return dataclasses.replace(Conditions(batch_size, 1, 2.0, "narrow", 1.0, 0.05, 0.0, ()), **changes)


def data(source: str = "full") -> Data:
    """The examples of MNIST."""
    return Data(source, "https://example.org/mnist", "f" * 64, 60_000, 512, 1000)


def training(seconds: float = 10.0) -> Training:
    """A training with a short curve."""
    return Training(seconds, 2, "cpu", 1, "here", (50, 90), (0.7, 0.3))


def report(**changes: Any) -> Report:
    """A static int8 run of the MNIST MLP, with `changes` to its fields."""
    quantized = measured(
        "int8",
        correct=976,
        weight_bytes={"fp32": 8_232, "fp64": 16_464, "int64": 16_464, "int8": 1_468_416},
        ms=QUANTIZED_MS,
        shares=QUANTIZED_SHARES,
        train_seconds=None,
    )
    one = Report(
        task="mnist",
        model="mlp",
        quant="static",
        precision="int8",
        data=data(),
        seed=0,
        host="here",
        machine="EPYC, 2 cores (avx512_vnni), torch 2.15.0, Python 3.11.7",
        benchmark="paired",
        threads=1,
        flops=2_940_928,
        baseline=measured(),
        quantized=quantized,
        comparison=comparison(),
        conditions=(conditions(1), conditions(64)),
        calibration="train",
        calibration_seconds=0.5,
        float_training=training(),
        quantized_training=None,
    )
    return dataclasses.replace(one, **changes)


def lone(**changes: Any) -> Report:
    """A run of one float model: nothing is lowered, nothing compared."""
    alone = {"quant": "none", "precision": "fp32", "quantized": None, "comparison": None}
    return report(**(alone | {"calibration": None, "calibration_seconds": None} | changes))


def without_labels(made: Report) -> Report:
    """The same run on random inputs without labels: no quality, no loss, nothing that was trained."""
    compared = made.comparison and dataclasses.replace(made.comparison, quality=None)
    blank: dict[str, Any] = {"quality": None, "loss": None, "train_seconds": None}
    return dataclasses.replace(
        made,
        data=Data("synthetic", "random inputs without labels", "r" * 64, 0, 512, 1024),
        baseline=dataclasses.replace(made.baseline, **blank),
        quantized=made.quantized and dataclasses.replace(made.quantized, **blank),
        comparison=compared,
        float_training=None,
        objective="unlabelled",
    )


def unlabelled(**changes: Any) -> Report:
    """A static int8 run of the MNIST MLP on random inputs, with `changes` to its fields."""
    return without_labels(report(**changes))


def entry(made: Report | None, /, *, error: str | None = None, **settings: str) -> Entry:
    """A combination of a sweep; its settings are the report's, and what is given: `model__hidden="[64]"`."""
    chosen = made or report()
    known = {
        "task": chosen.task,
        "model": chosen.model,
        "quant": chosen.quant,
        "precision": chosen.precision,
        "data": chosen.data.source,
        "runtime": chosen.runtime,
        "benchmark": chosen.benchmark,
        "seed": str(chosen.seed),
    }
    given = known | {name.replace("__", "."): value for name, value in settings.items()}
    name = " ".join(given.values())
    return Entry(f"run of {name} on {chosen.host}", name, given, made, error)


def sweep(*entries: Entry | Report, **changes: Any) -> SweepResult:
    """A sweep of these combinations."""
    made = tuple(entry(one) if isinstance(one, Report) else one for one in entries)
    return dataclasses.replace(SweepResult("night", "python -m quantexp -m quant=none,static", made), **changes)


def recorded(
    made: Report, store: str = "/stores/here/mlflow.db", *, facts: MachineFacts | None = None, **changes: Any
) -> RecordedRun:
    """A finished run of a store, on a machine with two cores; `model__hidden="[64]"` is one of its settings."""
    settings = {name: changes.pop(name) for name in list(changes) if "__" in name}
    one = entry(made, **settings)
    known = {name: value for name, value in one.settings.items() if name != "benchmark"}
    versions = {"quantexp": "0.2.0", "torch": "2.15.0", "torchao": "0.18.0"}
    run = RecordedRun(
        store=store,
        run_id=f"{store} {one.run_id}",
        name=one.name,
        settings=known,
        benchmark=made.benchmark,
        report=made,
        identity=Identity({}, made.data.fingerprint, versions, made.host, "EPYC", {"train": 2, "benchmark": 1}),
        facts=facts or MachineFacts("EPYC", 2, None, ("avx2", "avx512_vnni"), 8.0, python="3.11.7", packages=versions),
    )
    return dataclasses.replace(run, **changes)


def method(
    quant: str,
    precision: str = "int8",
    *,
    correct: int = 976,
    megabytes: float = 1.5,
    float_ms: Mapping[int, float] | None = None,
    speedups: Sequence[Speedup] = (speedup(1, 2.0), speedup(64, 4.0)),
    gained: int = 2,
    lost: int = 4,
    p_value: float = 0.6875,
    **changes: Any,
) -> Report:
    """A run of a method, as much faster than the float model as `speedups` say; 978 of 1000 right without it."""
    slow = dict(float_ms or {one.batch_size: 0.2 * one.batch_size**0.5 for one in speedups})
    fast = {one.batch_size: slow[one.batch_size] / one.ratio for one in speedups}
    small = Size(round(1e6 * megabytes), round(1e6 * megabytes), {precision: round(1e6 * megabytes)}, 1_470_474)
    compared = comparison(
        speedups=speedups,
        drop=(978 - correct) / 1000,
        flips_gained=gained,
        flips_lost=lost,
        p_value=p_value,
        compression=5.883896 / megabytes,
    )
    parts = {
        "baseline": measured(ms=slow),
        "quantized": measured(precision, correct=correct, size=small, ms=fast),
        "comparison": compared,
        "conditions": tuple(conditions(one.batch_size) for one in speedups),
    }
    return report(quant=quant, precision=precision, **(parts | changes))
