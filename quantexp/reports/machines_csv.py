"""Machines side by side as CSV: plain numbers, a row per experiment, batch size and machine, or a row per machine."""

from __future__ import annotations

import math

from quantexp.analysis.machine_differences import properties
from quantexp.analysis.machines import SharedExperiment, SideBySide
from quantexp.analysis.quality import agreement_percent, output_sqnr_db, quality_percent
from quantexp.analysis.ratios import over_float
from quantexp.analysis.seeds import Spread
from quantexp.analysis.values import float_latency_ms, latency_ms, size_mb
from quantexp.analysis.variants import Variant
from quantexp.reports.sweep_csv import csv_text

Row = dict[str, object]
FIGURES = (
    *("float_latency_ms_mean", "float_latency_ms_std", "latency_ms_mean", "latency_ms_std"),
    *("speedup", "speedup_low", "speedup_high", "verdict", "unstable"),
    *("accuracy", "agreement", "output_sqnr_db", "size_mb", "flops"),
)


def experiments_csv(compared: SideBySide) -> str:
    """Return a row per experiment, batch size and machine; accuracy and agreement lie in [0, 1]."""
    stores = {machine.name: machine for machine in compared.machines}
    varied = dict.fromkeys(
        name
        for shared in compared.experiments
        for variant in shared.variants
        for name, _ in (*variant.settings, *(variant.setup.settings if variant.setup else ()))
    )
    rows: list[Row] = []
    for shared in compared.experiments:
        for size in shared.sizes:
            for variant in shared.variants:
                if variant.setup and size in variant.sizes:
                    machine = stores[variant.setup.host]
                    named = {"machine": machine.name, "host": machine.host, "store": machine.store}
                    rows.append({**_described(shared, variant, size), **named, **_figures(variant, size)})
    columns = ["task", "quant", "precision", *varied, "batch_size", "machine", "host", "store", "protocol", "threads"]
    return csv_text([*columns, "seeds", "machines", *FIGURES], rows)


def machines_csv(compared: SideBySide) -> str:
    """Return a row per property, and a column per machine."""
    names = [machine.name for machine in compared.machines]
    stores: Row = {machine.name: machine.store for machine in compared.machines}
    counts: Row = {machine.name: len(machine.runs) for machine in compared.machines}
    rows: list[Row] = [{"property": "store", **stores}, {"property": "runs", **counts}]
    for found in properties(compared.machines):
        values = dict(zip(names, found.values, strict=True))
        rows.append({"kind": found.kind, "property": found.name, "differs": found.differs, **values})
    return csv_text(["kind", "property", "differs", *names], rows)


def _described(shared: SharedExperiment, variant: Variant, size: int) -> Row:
    row: Row = {"task": variant.task, "quant": variant.quant, "precision": variant.precision, "batch_size": size}
    if variant.setup:
        row |= {"protocol": variant.setup.protocol, "threads": variant.setup.threads, **dict(variant.setup.settings)}
    seeds = " ".join(str(seed) for seed in sorted(variant.reports))
    return row | dict(variant.settings) | {"seeds": seeds, "machines": len(shared.machines)}


def _figures(variant: Variant, size: int) -> Row:
    ratio, own = over_float(variant, size), latency_ms(variant, size)
    row: Row = {**_spread("float_latency_ms", float_latency_ms(variant, size)), **_spread("latency_ms", own)}
    if ratio:
        row |= {"speedup": _rounded(math.exp(ratio.centre)), "verdict": ratio.verdict}
    if ratio and ratio.reach is not None:
        row["speedup_low"] = _rounded(math.exp(ratio.centre - ratio.reach))
        row["speedup_high"] = _rounded(math.exp(ratio.centre + ratio.reach))
    quality, agreement, sqnr = quality_percent([variant]), agreement_percent(variant), output_sqnr_db(variant)
    row |= {"unstable": variant.unstable(size), "size_mb": _rounded(size_mb(variant).mean)}
    row["flops"] = "" if variant.flops is None else variant.flops
    row["accuracy"] = _rounded(quality.mean / 100) if quality else ""
    row["agreement"] = _rounded(agreement.mean / 100) if agreement else ""
    return row | {"output_sqnr_db": _rounded(sqnr.mean) if sqnr else ""}


def _spread(stem: str, found: Spread | None) -> Row:
    if found is None:
        return {}
    return {f"{stem}_mean": _rounded(found.mean), f"{stem}_std": "" if found.std is None else _rounded(found.std)}


def _rounded(value: float) -> float:
    return round(value, 6)
