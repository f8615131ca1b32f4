"""The page of a picture of one run: title and subtitle above the axes, a note below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantexp.reports.notes import EAGER
from quantexp.reports.style import WIDTH, literal, page
from quantexp.results import Measured, Report
from quantexp.results.text import threads_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_page(report: Report, title: str, note: str, *, width: float = WIDTH, height: float = 5.0) -> Figure:
    """Return a figure, its size in inches, with a subtitle such as `mnist, mlp: static int8 vs fp32, 1 thread`."""
    pair = f"{quantized_name(report)} vs " if report.quantized else ""
    runtime = "" if report.runtime == EAGER else f"{report.runtime}, "
    compared = f"{pair}{report.baseline.precision}, {runtime}{threads_text(report.threads)}"
    return page(title, f"{literal(report.network_name)}: {compared}", note, width=width, height=height)


def models(report: Report) -> list[tuple[str, Measured]]:
    """Return the float network and the quantized one with their names."""
    found = [(report.baseline.precision, report.baseline)]
    return [*found, (quantized_name(report), report.quantized)] if report.quantized else found


def quantized_name(report: Report) -> str:
    """Return method and precision."""
    return short(f"{report.quant} {report.precision}")


def short(part: str) -> str:
    """Return the name of a model, dtype or operator without `aten::`; the end of a long name."""
    name = literal(part.removeprefix("aten::"))
    return name if len(name) <= 24 else f"...{name[-21:]}"
