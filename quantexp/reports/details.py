"""The details of a run as tables of plain numbers: samples, layers, operators, time, confusion, classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, fields

from quantexp.analysis.quality import class_changes
from quantexp.results import Latency, LayerLoss, Measured, Quality, Report

Rows = Iterator[tuple[object, ...]]


def tables(report: Report) -> dict[str, Rows]:
    """Return the lines of each table by its name, the header first.

    There is `energy` only if it was measured, `layer_losses` only if a layer was quantized, and `confusion` and
    `classes` only with labels.
    """
    models = [("float", report.baseline)]
    if report.quantized:
        models.append((f"{report.quant} {report.precision}", report.quantized))
    qualities = [(name, model.quality) for name, model in models if model.quality]
    models += [
        (f"{report.quant} {report.precision} {other.runtime}", other.measured) for other in report.others_quantized
    ]
    timed = [(name, model.latency) for name, model in models]
    timed += [(f"float {other.runtime}", other.latency) for other in report.others]
    layers = report.comparison.layers if report.comparison else ()
    return {
        "samples": _samples(timed),
        **({"energy": _energies(timed)} if any(latency.energy for _, of in timed for latency in of) else {}),
        "layers": _layers(models),
        **({"layer_losses": _layer_losses(layers)} if layers else {}),
        "operators": _operators(models),
        "time": _time(models),
        **({"confusion": _confusion(qualities), "classes": _classes(qualities)} if qualities else {}),
    }


def _samples(timed: Iterable[tuple[str, tuple[Latency, ...]]]) -> Rows:
    yield "model", "batch_size", "placement", "round", "ms_per_call"
    for name, latencies in timed:
        for latency in latencies:
            rounds = len(latency.samples_ms) // latency.placements
            for index, sample in enumerate(latency.samples_ms):
                yield name, latency.batch_size, index // rounds, index % rounds, sample


def _energies(timed: Iterable[tuple[str, tuple[Latency, ...]]]) -> Rows:
    yield "model", "batch_size", "placement", "joules_per_example"
    for name, latencies in timed:
        for latency in latencies:
            for placement, joules in enumerate(latency.energy.joules_by_placement if latency.energy else ()):
                yield name, latency.batch_size, placement, joules


def _layers(models: Iterable[tuple[str, Measured]]) -> Rows:
    yield "model", "layer", "kind", "precision", "bits", "qscheme", "engine", "left_in_float_because"
    for name, model in models:
        reasons = {left.name: left.reason for left in model.evidence.left_in_float}
        for layer in model.evidence.layers:
            scheme = layer.qscheme or "", layer.engine or ""
            yield name, layer.name, layer.kind, layer.precision, layer.bits, *scheme, reasons.get(layer.name, "")


def _layer_losses(layers: Iterable[LayerLoss]) -> Rows:
    yield "layer", *(field.name for field in fields(LayerLoss)[1:])
    yield from map(astuple, layers)


def _operators(models: Iterable[tuple[str, Measured]]) -> Rows:
    yield "model", "operator", "precision", "calls", "macs_per_example"
    for name, model in models:
        for operator in model.evidence.operators:
            yield name, operator.name, operator.precision, operator.calls, operator.macs


def _time(models: Iterable[tuple[str, Measured]]) -> Rows:
    yield "model", "batch_size", "operator", "share"
    for name, model in models:
        for profile in model.profiles:
            for part in profile.shares:
                yield name, profile.batch_size, part.operator, round(part.share, 4)


def _confusion(qualities: Iterable[tuple[str, Quality]]) -> Rows:
    yield "model", "label", "predicted", "examples"
    for name, quality in qualities:
        for label, row in enumerate(quality.confusion):
            for predicted, count in enumerate(row):
                yield name, label, predicted, count
        for pair in quality.confused:  # of many classes only the most frequent errors
            yield name, *pair


def _classes(qualities: Sequence[tuple[str, Quality]]) -> Rows:
    """Yield the quality per class, and its change from the first model to the others."""
    (_, first), *others = qualities
    yield "label", "examples", *(name for name, _ in qualities), *(f"change_{name}" for name, _ in others)
    changes = [class_changes(first, other) for _, other in others]
    shares = [quality.per_class for _, quality in qualities]
    for label, (examples, _) in enumerate(first.class_counts):
        yield label, examples, *(share[label] for share in shares), *(change[label] for change in changes)
