"""The page of a picture of one run: what is shown and compared above the axes, a note below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantexp.reports.notes import EAGER
from quantexp.reports.style import WIDTH, literal, page
from quantexp.results import Measured, Report
from quantexp.results.text import threads_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_page(report: Report, title: str, note: str, *, width: float = WIDTH, height: float = 5.0) -> Figure:
    """Return a figure, its size in inches, that names what is compared: `mnist, mlp: static int8 against fp32, ...`."""
    against = f"{quantized_name(report)} against " if report.quantized else ""
    runtime = "" if report.runtime == EAGER else f"{report.runtime}, "
    compared = f"{against}{report.baseline.precision}, {runtime}{threads_text(report.threads)}"
    return page(title, f"{literal(report.network_name)}: {compared}", note, width=width, height=height)


def models(report: Report) -> list[tuple[str, Measured]]:
    """Return the float network and the quantized one with their names."""
    found = [(report.baseline.precision, report.baseline)]
    return [*found, (quantized_name(report), report.quantized)] if report.quantized else found


def quantized_name(report: Report) -> str:
    """Return method and precision."""
    return short(f"{report.quant} {report.precision}")


def short(part: str) -> str:
    """Return the name of a model, dtype or operator, the end of a long one, without the namespace that most have."""
    name = literal(part.removeprefix("aten::"))
    return name if len(name) <= 24 else f"...{name[-21:]}"
