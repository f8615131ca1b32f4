"""Affine quantization of one tensor: error by bits, bytes on disk, and the effect of a single outlier.

The tensor is that of `torch.manual_seed(seed)` and `torch.randn(shape)`. Errors are |x - dequantized|, in units of the
tensor.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from quantexp.config import Affine, Experiment, Granularity
from quantexp.quant.arithmetic.affine import Quantized, quantize_tensor
from quantexp.reports.findings import Findings
from quantexp.studies.affine.findings import (
    AffineReport,
    AtBits,
    WithOutlier,
    bits_lines,
    metrics,
    outlier_lines,
    table,
)
from quantexp.studies.affine.pictures import pictures

OUTLIERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # times the greatest magnitude of the tensor


def find(
    settings: Affine, experiment: Experiment, command: Callable[[Experiment], str]
) -> Generator[Experiment, None, Findings]:
    """Return the findings; no variant is run."""
    yield from ()
    report = study(settings, experiment.seed)
    lines = {"bits": bits_lines(report), "outliers": outlier_lines(report)}
    return Findings(metrics(report), table(report), lines, pictures(report))


def study(settings: Affine, seed: int) -> AffineReport:
    """Quantize a normal tensor, at several bit widths and with outliers of growing size."""
    x = torch.randn(settings.shape, generator=torch.Generator().manual_seed(seed))
    quantized = _quantize(x, settings)
    error = (x - quantized.dequantize()).abs()
    steps = error / _broadcast(quantized)
    return AffineReport(
        shape=tuple(settings.shape),
        seed=seed,
        least=x.min().item(),
        greatest=x.max().item(),
        num_bits=settings.num_bits,
        dtype=str(quantized.q.dtype).removeprefix("torch."),
        granularity=settings.granularity.value,
        scales=tuple(quantized.scale.flatten().tolist()),
        zero_points=tuple(quantized.zero_point.flatten().tolist()),
        mean_error=error.mean().item(),
        max_error=error.max().item(),
        mean_error_steps=steps.mean().item(),
        max_error_steps=steps.max().item(),
        float_bytes=saved_bytes(x),
        quantized_bytes=saved_bytes(quantized.q),
        by_bits=tuple(_by_bits(x, settings)),
        by_outlier=tuple(_by_outlier(x, settings)),
    )


def saved_bytes(tensor: Tensor) -> int:
    """Return the bytes of the file that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getbuffer().nbytes


def _by_bits(x: Tensor, settings: Affine) -> Iterator[AtBits]:
    for num_bits in sorted(set(settings.bits)):
        quantized = _quantize(x, replace(settings, num_bits=num_bits))
        error = (x - quantized.dequantize()).abs()
        yield AtBits(num_bits, error.mean().item(), error.max().item(), quantized.scale.max().item() / 2)


def _by_outlier(x: Tensor, settings: Affine) -> Iterator[WithOutlier]:
    """Replace the first value by an outlier, and yield the mean error of all others."""
    largest = x.abs().max()
    for times in OUTLIERS:
        with_outlier = x.clone()
        with_outlier.view(-1)[0] = times * largest
        errors = {}
        for granularity in Granularity:
            quantized = _quantize(with_outlier, replace(settings, granularity=granularity))
            errors[granularity] = (with_outlier - quantized.dequantize()).abs().flatten()[1:].mean().item()
        yield WithOutlier(times, errors[Granularity.per_tensor], errors[Granularity.per_channel])


def _quantize(x: Tensor, settings: Affine) -> Quantized:
    return quantize_tensor(
        x,
        settings.num_bits,
        signed=settings.signed,
        symmetric=settings.symmetric,
        nearest=settings.nearest,
        axis=0 if settings.granularity is Granularity.per_channel else None,
    )


def _broadcast(quantized: Quantized) -> Tensor:
    """Return the scale in a shape that broadcasts over the tensor."""
    return quantized.scale.reshape(-1, *[1] * (quantized.q.ndim - 1))
