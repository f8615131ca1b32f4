"""A report's figures under their public names; there is no other place where a metric gets its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from quantexp.results.comparison import Comparison, QualityChange, Speedup
from quantexp.results.evidence import LayerLoss
from quantexp.results.measured import Latency, Measured, Quality
from quantexp.results.report import Report


def metrics(report: Report) -> dict[str, float]:
    """Return the report's figures under their public names, headline figures first."""
    named = _headline(report.result)
    if report.comparison:
        named |= _comparison(report.comparison)
    named |= {
        "calibration_seconds": report.calibration_seconds,
        "flops": report.flops,
        "macs": report.flops / 2,
        "unstable": len(report.unstable),
    }
    named |= _details(report.result)
    if report.quantized is not None:
        float_side = _headline(report.baseline) | _details(report.baseline)
        named |= {f"float/{name}": value for name, value in float_side.items()}
    for other in report.others:
        of_runtime = {
            "prepare_seconds": other.prepare_seconds,
            **{f"latency_b{one.batch_size}_ms": one.median_ms for one in other.latency},
            **_latencies(other.latency),
            **_speedups("speedup", other.speedups),
        }
        named |= {f"runtime/{other.runtime}/float/{name}": value for name, value in of_runtime.items()}
        named |= _speedups(f"speedup_over_{other.runtime}", other.quantized_speedups)
    return {name: float(value) for name, value in named.items() if value is not None}


def _headline(model: Measured) -> dict[str, Any]:
    return {
        **({model.quality.name: model.quality.value} if model.quality else {}),
        "size_mb": model.size_mb,
        **{f"latency_b{one.batch_size}_ms": one.median_ms for one in model.latency},
        "parameters": model.size.parameters,
        "train_seconds": model.train_seconds,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        **_change(comparison.quality),
        "agreement": comparison.agreement,
        "compression": comparison.compression,
        **_speedups("speedup", comparison.speedups),
        "training_ratio": comparison.training_ratio,
        "output_sqnr_db": comparison.output_sqnr_db,
        **_layers(comparison.layers),
    }


def _interval(quality: Quality | None) -> dict[str, Any]:
    return {f"{quality.name}_low": quality.low, f"{quality.name}_high": quality.high} if quality else {}


def _change(change: QualityChange | None) -> dict[str, Any]:
    if change is None:
        return {}
    return {
        f"{change.name}_drop": change.drop,
        "flips_gained": change.flips_gained,
        "flips_lost": change.flips_lost,
        "mcnemar_p": change.p_value,
        "detectable_drop": change.detectable_drop,
    }


def _layers(layers: Iterable[LayerLoss]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for one in layers:
        stem = f"layers/{re.sub(r'[^A-Za-z0-9_.-]', '_', one.name) or 'network'}"  # of what MLflow takes in a name
        named |= {
            f"{stem}/weight_sqnr_db": one.weight_sqnr_db,
            f"{stem}/output_sqnr_db": one.output_sqnr_db,
            f"{stem}/clipped": one.clipped,
        }
    return named


def _details(model: Measured) -> dict[str, Any]:
    memory = model.memory_bytes
    return {
        "loss": model.loss,
        **_interval(model.quality),
        "int8_mac_share": model.evidence.mac_share("int8"),
        "stored_mb": None if model.size.stored_bytes is None else model.size.stored_bytes / 1e6,
        "weights_mb": model.size.weights_mb,
        "load_ms": model.load_ms,
        "prepare_seconds": model.prepare_seconds,
        "memory_mb": None if memory is None else memory / 1e6,
        **_latencies(model.latency),
    }


def _latencies(latencies: Iterable[Latency]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for one in latencies:
        stem = f"latency_b{one.batch_size}_ms"
        named |= {
            f"{stem}_mean": one.mean_ms,
            f"{stem}_std": one.std_ms,
            f"{stem}_p10": one.p10_ms,
            f"{stem}_p90": one.p90_ms,
            f"{stem}_p99": one.p99_ms,
            f"first_call_b{one.batch_size}_ms": one.first_call_ms,
            f"throughput_b{one.batch_size}_per_s": one.throughput_per_s,
        }
    return named


def _speedups(stem: str, speedups: Iterable[Speedup]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for one in speedups:
        name = f"{stem}_b{one.batch_size}"
        named |= {name: one.ratio, f"{name}_low": one.low, f"{name}_high": one.high}
    return named
