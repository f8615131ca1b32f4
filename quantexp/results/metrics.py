"""The figures of a report under their public names. All names of metrics are defined here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from quantexp.results.comparison import Comparison, EnergyRatio, QualityChange, Speedup
from quantexp.results.evidence import LayerLoss
from quantexp.results.measured import Latency, Measured, Quality
from quantexp.results.report import Report


def metrics(report: Report) -> dict[str, float]:
    """Return the figures of the report under their public names, headline figures first."""
    named = _headline(report.result)
    if report.comparison:
        named |= _comparison(report.comparison)
    named |= {
        "calibration_seconds": report.calibration_seconds,
        "flops": report.flops,
        "macs": None if report.flops is None else report.flops / 2,
        "unstable": len(report.unstable),
    }
    named |= _details(report.result)
    if report.quantized is not None:
        float_side = _headline(report.baseline) | _details(report.baseline)
        named |= {f"float/{name}": value for name, value in float_side.items()}
    for other in report.others:
        of_runtime = {
            "prepare_seconds": other.prepare_seconds,
            **{f"latency_b{latency.batch_size}_ms": latency.median_ms for latency in other.latency},
            **_latencies(other.latency),
            **_speedups("speedup", other.speedups),
        }
        named |= {f"runtime/{other.runtime}/float/{name}": value for name, value in of_runtime.items()}
        named |= _speedups(f"speedup_over_{other.runtime}", other.quantized_speedups)
    for quantized in report.others_quantized:
        of_runtime = {
            **_headline(quantized.measured),
            **_speedups("speedup", quantized.speedups),
            **_speedups("speedup_over_eager", quantized.eager_speedups),
            **_details(quantized.measured),
        }
        named |= {f"runtime/{quantized.runtime}/{name}": value for name, value in of_runtime.items()}
    return {name: float(value) for name, value in named.items() if value is not None}


def _headline(model: Measured) -> dict[str, Any]:
    return {
        **({model.quality.name: model.quality.value} if model.quality else {}),
        "size_mb": model.size_mb,
        **{f"latency_b{latency.batch_size}_ms": latency.median_ms for latency in model.latency},
        "parameters": model.size.parameters,
        "train_seconds": model.train_seconds,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        **_change(comparison.quality),
        "agreement": comparison.agreement,
        "compression": comparison.compression,
        **_speedups("speedup", comparison.speedups),
        **_speedups("energy_ratio", comparison.energy_ratios),
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
    for layer in layers:
        stem = f"layers/{re.sub(r'[^A-Za-z0-9_.-]', '_', layer.name) or 'network'}"  # MLflow allows no other characters
        named |= {
            f"{stem}/weight_sqnr_db": layer.weight_sqnr_db,
            f"{stem}/output_sqnr_db": layer.output_sqnr_db,
            f"{stem}/clipped": layer.clipped,
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
        "agreement_with_eager": model.agreement_with_eager,
        "memory_mb": None if memory is None else memory / 1e6,
        **_latencies(model.latency),
    }


def _latencies(latencies: Iterable[Latency]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for latency in latencies:
        stem = f"latency_b{latency.batch_size}_ms"
        named |= {
            f"{stem}_mean": latency.mean_ms,
            f"{stem}_std": latency.std_ms,
            f"{stem}_p10": latency.p10_ms,
            f"{stem}_p90": latency.p90_ms,
            f"{stem}_p99": latency.p99_ms,
            f"first_call_b{latency.batch_size}_ms": latency.first_call_ms,
            f"throughput_b{latency.batch_size}_per_s": latency.throughput_per_s,
        }
        if used := latency.resources:
            named |= {
                f"minor_faults_b{latency.batch_size}": used.minor_faults_per_call,
                f"system_b{latency.batch_size}_ms": used.system_ms_per_call,
                f"cpu_b{latency.batch_size}_ms": used.cpu_ms_per_call,
            }
        if energy := latency.energy:
            stem = f"energy_b{latency.batch_size}_j"
            named |= {stem: energy.joules, f"{stem}_low": energy.low_joules, f"{stem}_high": energy.high_joules}
    return named


def _speedups(stem: str, speedups: Iterable[Speedup | EnergyRatio]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for speedup in speedups:
        name = f"{stem}_b{speedup.batch_size}"
        named |= {name: speedup.ratio, f"{name}_low": speedup.low, f"{name}_high": speedup.high}
    return named
