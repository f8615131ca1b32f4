"""The findings of the study `affine`: its figures, metrics by name, a table and CSV files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantexp.reports.table import Table


@dataclass(frozen=True, slots=True)
class AtBits:
    """The error of the tensor at one bit width, and half of the largest step."""

    num_bits: int
    mean_error: float
    max_error: float
    half_step: float


@dataclass(frozen=True, slots=True)
class WithOutlier:
    """The mean error of all other values if one value is `times` as large as the greatest magnitude."""

    times: int
    per_tensor: float
    per_channel: float


@dataclass(frozen=True, slots=True)
class AffineReport:
    """One tensor and its quantization; errors in units of the tensor, and in steps of each value's scale.

    `scales` and `zero_points` have one entry, or one per channel; the bytes are those of the files that `torch.save`
    writes for the float tensor and for the integers.
    """

    shape: tuple[int, ...]
    seed: int
    least: float
    greatest: float
    num_bits: int
    dtype: str
    granularity: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    mean_error: float
    max_error: float
    mean_error_steps: float
    max_error_steps: float
    float_bytes: int
    quantized_bytes: int
    by_bits: tuple[AtBits, ...]
    by_outlier: tuple[WithOutlier, ...]

    @property
    def compression(self) -> float:
        """Bytes of the float tensor over those of the integers."""
        return self.float_bytes / self.quantized_bytes

    @property
    def tensor(self) -> str:
        """The name of the tensor: `normal tensor 64 x 256, seed 0`."""
        return f"normal tensor {' x '.join(map(str, self.shape))}, seed {self.seed}"


def metrics(report: AffineReport) -> dict[str, float]:
    """Return the metrics by name."""
    names = ("mean_error", "max_error", "mean_error_steps", "max_error_steps")
    sizes = ("float_bytes", "quantized_bytes", "compression")
    return {name: float(getattr(report, name)) for name in (*names, *sizes)}


def table(report: AffineReport) -> Table:
    """Return the float and the quantized tensor side by side."""
    rows = (
        ("dtype", "float32", report.dtype, ""),
        ("Bits", "32", str(report.num_bits), ""),
        ("Scale", "", _span([f"{scale:.4g}" for scale in report.scales]), _spelt(report.granularity)),
        ("Zero point", "", _span(list(map(str, report.zero_points))), ""),
        ("Mean error", "", f"{report.mean_error:.4g}", f"{report.mean_error_steps:.2f} of a step"),
        ("Maximum error", "", f"{report.max_error:.4g}", f"{report.max_error_steps:.2f} of a step"),
        (
            "Bytes on disk",
            f"{report.float_bytes:,}",
            f"{report.quantized_bytes:,}",
            f"{report.compression:.2f}x smaller"
            if report.compression >= 1
            else f"{1 / report.compression:.2f}x larger",
        ),
    )
    return Table((report.tensor, "float", "quantized", ""), rows, tuple(_notes(report)))


def bits_lines(report: AffineReport) -> list[Sequence[object]]:
    """Return the error by bit width as lines of a CSV file."""
    lines = [(at.num_bits, at.mean_error, at.max_error, at.half_step) for at in report.by_bits]
    return [("num_bits", "mean_error", "max_error", "half_step"), *lines]


def outlier_lines(report: AffineReport) -> list[Sequence[object]]:
    """Return the mean error of the other values by the size of the outlier as lines of a CSV file."""
    lines = [(at.times, at.per_tensor, at.per_channel) for at in report.by_outlier]
    return [("outlier_times", "mean_error_per_tensor", "mean_error_per_channel"), *lines]


def growth(report: AffineReport) -> tuple[float, float]:
    """Return by which factor the largest outlier increases the mean error of all others, per tensor and per channel."""
    first, last = report.by_outlier[0], report.by_outlier[-1]
    pairs = ((last.per_tensor, first.per_tensor), (last.per_channel, first.per_channel))
    per_tensor, per_channel = (large / small if small else 1.0 for large, small in pairs)
    return per_tensor, per_channel


def _notes(report: AffineReport) -> Iterator[str]:
    yield (
        f"x ≈ scale · (q - zero point), for values from {report.least:.4g} to {report.greatest:.4g}. "
        "Error: |x - dequantized|, in units of the tensor."
    )
    if report.max_error_steps > 0.501:  # more than rounding of the scale explains
        yield (
            "More than half a step: the zero point is -min / scale rounded down, so the lowest values are clipped; "
            "study.nearest=true rounds to nearest."
        )
    held = 8 if report.num_bits <= 8 else 16
    padded = f"; an integer of {report.num_bits} bits is stored in {held}" if report.num_bits != held else ""
    container = report.float_bytes - 4 * math.prod(report.shape)
    yield (
        f"Bytes on disk: the file of torch.save, with {container:,} bytes of overhead{padded}. "
        f"Scale and zero point need {8 * len(report.scales):,} more."
    )
    per_tensor, per_channel = growth(report)
    yield (
        f"One outlier, {report.by_outlier[-1].times:,} times as large as the largest value, increases the mean error "
        f"of all others {per_tensor:.3g}-fold with one scale per tensor, {per_channel:.3g}-fold with one per channel."
    )


def _span(texts: Sequence[str]) -> str:
    """Return the only value, or the least and the greatest one."""
    ends = sorted(set(texts), key=float)
    return ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"


def _spelt(granularity: str) -> str:
    return granularity.replace("_", " ")
