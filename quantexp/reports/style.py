"""The style of all pictures: colours, sizes, and a page with title, subtitle and note.

The colours are those of Okabe and Ito (jfly.uni-koeln.de/color, 2008), which people with colour blindness can
distinguish; markers, hatches and text repeat the information. Pictures are legible at full size and as a thumbnail.

Matplotlib is used without pyplot, which keeps figures and a window backend for the whole process.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Role:
    """The look of a model in every picture."""

    colour: str
    marker: str
    line: str


FLOAT = Role("#5A5A5A", "o", "-")
COMPILED = Role("#56B4E9", "s", "--")
QUANTIZED = Role("#D55E00", "D", "-")

INK = "#222222"
FAINT = "#E6E6E6"
WIDTH = 8.0  # inches; 960 pixels at DPI, a third of them in a thumbnail
DPI = 120
HEAD = 0.88  # inches for the title
FOOT = 0.36  # inches for the note
LARGE, NORMAL, SMALL = 19, 14, 11.5  # points: 10, 7 and 6 pixels in the thumbnail
LETTER = 0.6  # mean width of a letter as a share of the font size, at most
STYLE: dict[Any, Any] = {
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "hatch.linewidth": 0.7,
    "text.parse_math": False,  # names may contain dollars and underscores
}
_STYLING = Lock()  # Matplotlib's style belongs to the whole process


@contextmanager
def styled() -> Iterator[None]:
    """Draw in our style, and restore the style of the caller afterwards."""
    import matplotlib

    with _STYLING, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]  # savefig would draw it twice
    return buffer.getvalue()


def page(title: str, subtitle: str, note: str, *, width: float = WIDTH, height: float = 5.0) -> Figure:
    """Return a figure, its size in inches, with title and subtitle above the axes and a note below."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DPI, facecolor="white")
    lay_out(figure, HEAD)
    left = 0.15 / width
    figure.text(left, 1 - 0.12 / height, title, va="top", size=fitting(title, LARGE, width), weight="bold")
    figure.text(left, 1 - 0.53 / height, subtitle, va="top", size=fitting(subtitle, NORMAL, width))
    figure.text(left, 0.12 / height, note, size=fitting(note, SMALL, width), color="#555555")
    return figure


def lay_out(figure: Figure, head: float) -> None:
    """Place the axes between `head` inches at the top and the note at the bottom."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height = figure.get_figheight()
    between = (0.01, FOOT / height, 0.98, 1 - (head + FOOT) / height)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=between))


def fitting(text: str, size: float, width: float) -> float:
    """Return the font size in points, at most `size`, at which `text` fits into `width` inches."""
    return min(size, 72 * (width - 0.3) / (LETTER * max(len(text), 1)))


def literal(text: str) -> str:
    """Replace characters that the font lacks, because drawing one raises a warning."""
    known = _letters()
    return "".join(letter if ord(letter) in known else "?" for letter in text)


@functools.cache
def _letters() -> frozenset[int]:
    """Return the codes of the characters that the font has."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def round_ticks(low: float, high: float, steps: tuple[int, ...] = ()) -> list[float]:
    """Return the round numbers of a logarithmic axis from below `low` to above `high`, both positive."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = steps or ((1, 2, 5) if high < 300 * low else (1,))
    return [step * 10.0**decade for decade in decades for step in steps]
