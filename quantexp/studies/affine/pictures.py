"""Pictures of the study `affine`: error by bits, and error of all other values by size of an outlier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quantexp.reports.style import INK, QUANTIZED, Role, page, png, round_ticks, styled
from quantexp.studies.affine.findings import AffineReport, growth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_CHANNEL = Role("#0072B2", "s", "-")
MAXIMUM = Role("#E69F00", "^", "-")
SIZES: dict[str, Any] = {"markersize": 10, "linewidth": 2.5}


def pictures(report: AffineReport) -> dict[str, bytes]:
    """Return the pictures as PNG by file name."""
    with styled():
        return {
            "error_by_bits.png": png(bits_figure(report)),
            "error_by_range.png": png(outlier_figure(report)),
        }


def bits_figure(report: AffineReport) -> Figure:
    """Plot mean and maximum error by bit width, and half a step, the greatest rounding error."""
    points = report.by_bits
    note = "half a step: the greatest rounding error"
    if any(point.max_error > 1.001 * point.half_step for point in points):
        note += "; above it, the lowest values are clipped (see study.nearest)"
    subtitle = f"{report.tensor}: {_shared(report.granularity)}"
    figure = page("Each additional bit halves the error", subtitle, note)
    axes = figure.subplots()
    bits = [point.num_bits for point in points]
    _line(axes, bits, [point.max_error for point in points], MAXIMUM, "maximum")
    axes.plot(bits, [point.half_step for point in points], "--", color=INK, linewidth=2, label="half a step")
    _line(axes, bits, [point.mean_error for point in points], QUANTIZED, "mean")
    axes.set_xticks(bits)
    axes.set_xlabel("bits of an integer")
    _error_axis(axes, [value for point in points for value in (point.mean_error, point.max_error, point.half_step)])
    axes.legend(loc="upper right")
    return figure


def outlier_figure(report: AffineReport) -> Figure:
    """Plot the mean error of all other values by the size of an outlier, with a scale per tensor and per channel."""
    points = report.by_outlier
    per_tensor, per_channel = growth(report)
    note = f"mean error of all values but the outlier, {report.num_bits} bits; channels: first axis"
    title = f"One outlier: error x {per_tensor:.3g} per tensor, x {per_channel:.3g} per channel"
    figure = page(title, report.tensor, note)
    axes = figure.subplots()
    times = [point.times for point in points]
    _line(axes, times, [point.per_tensor for point in points], QUANTIZED, "one scale per tensor")
    _line(axes, times, [point.per_channel for point in points], PER_CHANNEL, "one scale per channel")
    axes.set_xscale("log")
    ticks = [tick for tick in times if str(tick).strip("0") == "1"]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("outlier (times the largest value without it)")
    _error_axis(axes, [value for point in points for value in (point.per_tensor, point.per_channel)])
    if points[-1].per_tensor <= 1.001 * points[-2].per_tensor:  # the error has reached its maximum
        look: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "top", "color": QUANTIZED.colour}
        axes.annotate("all others\nrounded to 0", (times[-1], points[-1].per_tensor), (8, -12), **look)
    axes.legend(loc="upper left")
    return figure


def _line(axes: Axes, places: Sequence[int], values: Sequence[float], role: Role, label: str) -> None:
    axes.plot(places, values, role.line, color=role.colour, marker=role.marker, label=label, **SIZES)


def _error_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make a logarithmic axis of the errors with round ticks, if there is any error."""
    axes.set_ylabel("error (units of the tensor)")
    axes.grid(axis="y")
    shown = [value for value in values if value > 0]
    if not shown:
        return
    low, high = min(shown) / 1.5, 1.5 * max(shown)
    axes.set_yscale("log")
    ticks = [tick for tick in round_ticks(low, high) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low, high)


def _shared(granularity: str) -> str:
    return f"one scale {granularity.replace('_', ' ')}"
