"""A report's longer figures as tables of plain numbers: samples, layers, operators, time, confusion, classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, fields

from quantexp.results import Latency, LayerLoss, Measured, Report

Rows = Iterator[tuple[object, ...]]


def tables(report: Report) -> dict[str, Rows]:
    """Return the lines of each table by its name, a header first; `layer_losses` only where a layer was quantized."""
    models = [("float", report.baseline)]
    if report.quantized:
        models.append((f"{report.quant} {report.precision}", report.quantized))
    timed = [(name, model.latency) for name, model in models]
    if report.compiled:
        timed.append(("float compiled", report.compiled.latency))
    layers = report.comparison.layers if report.comparison else ()
    losses = {"layer_losses": _layer_losses(layers)} if layers else {}
    return {
        "samples": _samples(timed),
        "layers": _layers(models),
        **losses,
        "operators": _operators(models),
        "time": _time(models),
        "confusion": _confusion(models),
        "classes": _classes(models),
    }


def _samples(timed: Iterable[tuple[str, tuple[Latency, ...]]]) -> Rows:
    yield "model", "batch_size", "placement", "round", "ms_per_call"
    for name, latencies in timed:
        for one in latencies:
            rounds = len(one.samples_ms) // one.placements
            for index, sample in enumerate(one.samples_ms):
                yield name, one.batch_size, index // rounds, index % rounds, sample


def _layers(models: Iterable[tuple[str, Measured]]) -> Rows:
    yield "model", "layer", "kind", "precision", "bits", "qscheme", "engine", "left_in_float_because"
    for name, model in models:
        reasons = {left.name: left.reason for left in model.evidence.left_in_float}
        for one in model.evidence.layers:
            scheme = one.qscheme or "", one.engine or ""
            yield name, one.name, one.kind, one.precision, one.bits, *scheme, reasons.get(one.name, "")


def _layer_losses(layers: Iterable[LayerLoss]) -> Rows:
    yield "layer", *(field.name for field in fields(LayerLoss)[1:])
    yield from map(astuple, layers)


def _operators(models: Iterable[tuple[str, Measured]]) -> Rows:
    yield "model", "operator", "precision", "calls", "macs_per_example"
    for name, model in models:
        for one in model.evidence.operators:
            yield name, one.name, one.precision, one.calls, one.macs


def _time(models: Iterable[tuple[str, Measured]]) -> Rows:
    yield "model", "batch_size", "operator", "share"
    for name, model in models:
        for profile in model.profiles:
            for one in profile.shares:
                yield name, profile.batch_size, one.operator, round(one.share, 4)


def _confusion(models: Iterable[tuple[str, Measured]]) -> Rows:
    yield "model", "label", "predicted", "examples"
    for name, model in models:
        for label, row in enumerate(model.accuracy.confusion):
            for predicted, count in enumerate(row):
                yield name, label, predicted, count


def _classes(models: list[tuple[str, Measured]]) -> Rows:
    """Yield the accuracy on each class, and behind the first model's the change from it."""
    yield "label", "examples", *(name for name, _ in models), *(f"change_{name}" for name, _ in models[1:])
    first, *others = [model.accuracy.per_class for _, model in models]
    for label, row in enumerate(models[0][1].accuracy.confusion):
        known = [share[label] for share in (first, *others)]
        yield label, sum(row), *known, *(_change(known[0], one) for one in known[1:])


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
