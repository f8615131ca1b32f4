"""Pictures of the study `affine`: error by bits, and what one outlier does to the error of all other values."""

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
    """Show mean and maximum error by bit width, and the half step that rounding moves a value by at most."""
    points = report.by_bits
    note = "half a step: the most that rounding moves a value by"
    if any(one.max_error > 1.001 * one.half_step for one in points):
        note += "; above it the lowest values are cut off (see study.nearest)"
    subtitle = f"{report.tensor}: {_shared(report.granularity)}"
    figure = page("Each bit more halves the error", subtitle, note)
    axes = figure.subplots()
    bits = [one.num_bits for one in points]
    _line(axes, bits, [one.max_error for one in points], MAXIMUM, "maximum")
    axes.plot(bits, [one.half_step for one in points], "--", color=INK, linewidth=2, label="half a step")
    _line(axes, bits, [one.mean_error for one in points], QUANTIZED, "mean")
    axes.set_xticks(bits)
    axes.set_xlabel("bits of an integer")
    _error_axis(axes, [value for one in points for value in (one.mean_error, one.max_error, one.half_step)])
    axes.legend(loc="upper right")
    return figure


def outlier_figure(report: AffineReport) -> Figure:
    """Show the mean error of all other values by the size of an outlier, with a scale per tensor and per channel."""
    points = report.by_outlier
    per_tensor, per_channel = growth(report)
    note = f"mean error of all values but the outlier, {report.num_bits} bits; a channel is a row along the first axis"
    title = f"One outlier: error x {per_tensor:.3g} per tensor, x {per_channel:.3g} per channel"
    figure = page(title, report.tensor, note)
    axes = figure.subplots()
    times = [one.times for one in points]
    _line(axes, times, [one.per_tensor for one in points], QUANTIZED, "one scale per tensor")
    _line(axes, times, [one.per_channel for one in points], PER_CHANNEL, "one scale per channel")
    axes.set_xscale("log")
    ticks = [tick for tick in times if str(tick).strip("0") == "1"]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("outlier (times the largest value without it)")
    _error_axis(axes, [value for one in points for value in (one.per_tensor, one.per_channel)])
    if points[-1].per_tensor <= 1.001 * points[-2].per_tensor:  # it has stopped growing: nothing is left to lose
        look: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "top", "color": QUANTIZED.colour}
        axes.annotate("all others\nhave become 0", (times[-1], points[-1].per_tensor), (8, -12), **look)
    axes.legend(loc="upper left")
    return figure


def _line(axes: Axes, places: Sequence[int], values: Sequence[float], role: Role, label: str) -> None:
    axes.plot(places, values, role.line, color=role.colour, marker=role.marker, label=label, **SIZES)


def _error_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make the logarithmic axis of the errors, with round numbers as ticks; no error at all has no place on it."""
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
