"""The picture of the quantization error by layer: a row per layer, in the order of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quantexp.reports.style import FAINT, FOOT, HEAD, QUANTIZED, SMALL, Role, literal, page
from quantexp.results import LayerLoss, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WEIGHT = Role("#0072B2", "s", "none")
OUTPUT = Role(QUANTIZED.colour, QUANTIZED.marker, "-")
CLIPPED = "#CC79A7"
ROOMY, TIGHT = 0.55, 0.27  # height of a row in inches
FEW = 12  # layers with roomy rows; with more, rows shrink until they are tight
LONGEST = {False: 26, True: 34}  # characters of a name, in roomy and in tight rows
SPAN = 24  # least range of the axis in dB, so that a small difference looks small
PERCENT = 1.0  # least range of the axis of clipped inputs


def layers_figure(report: Report) -> Figure | None:
    """Plot per layer the SQNR of weight and output with respect to float, and the share of clipped inputs."""
    layers = report.comparison.layers if report.comparison else ()
    if not any(layer.weight_sqnr_db is not None or layer.output_sqnr_db is not None for layer in layers):
        return None
    row = max(TIGHT, ROOMY * min(1.0, FEW / len(layers)))
    clipped = any(layer.clipped for layer in layers)
    beyond = "; clipped: inputs outside the calibrated range" if clipped else ""
    note = f"6 dB more halve the error{beyond}"
    trained = ", after further training" if report.quantized_training else ""
    subtitle = f"{report.network_name}: {report.quant} {report.precision} vs {report.baseline.precision}{trained}"
    figure = page("Quantization error by layer", literal(subtitle), note, height=HEAD + FOOT + 1.3 + row * len(layers))
    if clipped:
        axes, bars = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": (3, 1)})
        _clipped(bars, layers)
    else:
        axes = figure.subplots()
    _rows(axes, layers, tight=row < ROOMY)
    size = 10 if row == ROOMY else 7
    _sqnr(axes, layers, lambda layer: layer.weight_sqnr_db, "weight", WEIGHT, size)
    _sqnr(axes, layers, lambda layer: layer.output_sqnr_db, "output", OUTPUT, size)
    axes.set_xlim(*_at_least(*axes.get_xlim()))
    axes.set_xlabel("SQNR (dB), higher is better")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1)
    return figure


def _at_least(low: float, high: float) -> tuple[float, float]:
    """Widen the range of an axis to SPAN, equally on both sides."""
    missing = max(0.0, SPAN - (high - low))
    return low - missing / 2, high + missing / 2


def _rows(axes: Axes, layers: Sequence[LayerLoss], *, tight: bool) -> None:
    most = LONGEST[tight]
    names = [layer.name if len(layer.name) <= most else f"...{layer.name[3 - most :]}" for layer in layers]
    floats = ["" if layer.precision != "fp32" else " (fp32)" for layer in layers]
    look: dict[str, Any] = {"fontsize": SMALL} if tight else {}
    axes.set_yticks(
        range(len(layers)), [literal(name + kept) for name, kept in zip(names, floats, strict=True)], **look
    )
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    _borders(axes, len(layers))


def _borders(axes: Axes, count: int) -> None:
    for border in range(1, count):
        axes.axhline(border - 0.5, color=FAINT, linewidth=1, zorder=0)


def _sqnr(
    axes: Axes,
    layers: Sequence[LayerLoss],
    figure_of: Callable[[LayerLoss], float | None],
    name: str,
    role: Role,
    size: float,
) -> None:
    points = [(found, at) for at, layer in enumerate(layers) if (found := figure_of(layer)) is not None]
    look: dict[str, Any] = {"color": role.colour, "marker": role.marker, "linestyle": role.line, "markersize": size}
    axes.plot([found for found, _ in points], [at for _, at in points], label=name, linewidth=1.5, **look)


def _clipped(axes: Axes, layers: Sequence[LayerLoss]) -> None:
    """Draw a bar with its number per layer; none for a layer without a calibrated range."""
    from matplotlib.ticker import MaxNLocator

    shares = {at: 100 * layer.clipped for at, layer in enumerate(layers) if layer.clipped is not None}
    axes.barh(list(shares), list(shares.values()), 0.6, color=CLIPPED)
    for at, share in shares.items():
        text = f"{share:.2g}" if share >= 0.01 or not share else "<0.01"
        axes.annotate(text, (share, at), (5, 0), textcoords="offset points", va="center", size=SMALL)
    axes.set_xlim(0, max(PERCENT, 1.5 * max(shares.values())))
    axes.xaxis.set_major_locator(MaxNLocator(2))
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.set_xlabel("clipped (%)")
    _borders(axes, len(layers))
