"""The groups of networks that share a picture of a sweep, the looks of the methods, and the page with the legend.

A method has the same colour and marker in every picture; its variants (another precision or engine) differ in their
filling. If a sweep varies the network, each network has a number, shown in the markers and in the legend. Each setup
(machine, protocol, threads) has pictures of its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantexp.analysis.names import place_names
from quantexp.analysis.settings import settings_text
from quantexp.analysis.variants import Network, Setup, Variant, networks
from quantexp.reports.notes import EAGER
from quantexp.reports.style import (
    COMPILED,
    FLOAT,
    FOOT,
    HEAD,
    LETTER,
    QUANTIZED,
    SMALL,
    WIDTH,
    Role,
    lay_out,
    literal,
    page,
)
from quantexp.results.sweep import SweepResult
from quantexp.results.text import threads_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROLES = {
    "none": FLOAT,
    "dynamic": Role("#0072B2", "s", "-"),
    "static": QUANTIZED,
    "qat": Role("#009E73", "^", "-"),
    "amp": Role("#CC79A7", "v", "-"),
}
MORE_ROLES = (Role("#E69F00", "P", "-"), Role(COMPILED.colour, "X", "-"), Role("#F0E442", "h", "-"))
FILLINGS = (("full", "-"), ("none", "--"), ("left", ":"), ("bottom", "-."))
FEW = 8  # networks; the legend of more has smaller text
MOST_NUMBERED = 60  # networks; the legend of more would be longer than the picture
MOST_NAMED = 24  # methods; of more, the legend names the kinds


@dataclass(frozen=True)
class Look:
    """How a method is drawn: colour and marker of its kind, filling and line of its variant."""

    role: Role
    filling: str
    line: str

    @property
    def full(self) -> bool:
        """Whether markers and bars are filled."""
        return self.filling == "full"

    @property
    def marker(self) -> dict[str, Any]:
        """The arguments of a marker."""
        return {
            "marker": self.role.marker,
            "color": self.role.colour,
            "fillstyle": self.filling,
            "markerfacecoloralt": "white",
            "markeredgecolor": self.role.colour,
        }


@dataclass(frozen=True)
class Group:
    """The networks of one task and setup, which share a picture."""

    networks: tuple[Network, ...]
    looks: Mapping[str, Look]
    subtitle: str

    @property
    def numbered(self) -> bool:
        """Whether each network has a number."""
        return 1 < len(self.networks) <= MOST_NUMBERED

    @property
    def variants(self) -> list[tuple[int, Variant]]:
        """Every variant with the number of its network, 0 without numbers."""
        numbered = self.numbered
        return [(numbered * at, found) for at, network in enumerate(self.networks, 1) for found in network.variants]

    @property
    def quality(self) -> str:
        """What is drawn as quality: accuracy, or agreement with float without labels."""
        return "accuracy" if any(network.labelled for network in self.networks) else "agreement"

    @property
    def quality_label(self) -> str:
        """The label of an axis of the quality."""
        return "accuracy (%)" if self.quality == "accuracy" else "agreement with float (%)"

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that were measured."""
        return sorted({size for network in self.networks for size in network.sizes})

    @property
    def ends(self) -> list[int]:
        """The smallest batch size and the largest."""
        return sorted({self.sizes[0], self.sizes[-1]}) if self.sizes else []

    @property
    def seeds(self) -> int:
        """The greatest number of seeds of a variant."""
        return max(len(variant.reports) for _, variant in self.variants)


def groups(sweep: SweepResult) -> list[Group]:
    """Return the groups with something to compare: the networks of each task and setup."""
    found: dict[tuple[str, Setup], list[Network]] = defaultdict(list)
    for network in networks(sweep):
        found[network.task, network.setup].append(network)
    places = place_names([setup for _, setup in found])
    looks = looks_of([variant for alike in found.values() for network in alike for variant in network.variants])
    made = []
    for (task, setup), alike in found.items():
        measured = measured_text(alike, places[setup.place])
        own = settings_text(alike[0].settings) if len(alike) == 1 else ""
        parts = (task, measured, settings_text(setup.settings), own)
        made.append(Group(tuple(alike), looks, literal("; ".join(part for part in parts if part))))
    return [group for group in made if len(group.variants) > 1]


def measured_text(alike: Sequence[Network], place: str) -> str:
    """Return how the networks of a setup were measured, and on which machine."""
    setup, runtimes = alike[0].setup, sorted({network.runtime for network in alike})
    executed = [] if runtimes == [EAGER] else [", ".join(runtimes)]
    return ", ".join([setup.protocol, *executed, threads_text(setup.threads), place])


def group_page(group: Group, title: str, note: str, *, height: float, numbers: bool = True) -> Figure:
    """Return a page with room for axes of `height` inches below the legend of methods and numbered networks."""
    looks = {variant.method: group.looks[variant.method] for _, variant in group.variants}
    if len(looks) > MOST_NAMED:
        kinds = {variant.quant: group.looks[variant.method].role for _, variant in group.variants}
        looks = {kind: Look(role, "full", "-") for kind, role in kinds.items()}
    numbered = enumerate(group.networks, 1) if numbers and group.numbered else ()
    texts = [f"{at}: {settings_text(network.settings)}" for at, network in numbered]
    return legend_page(title, group.subtitle, note, looks, texts, height=height)


def legend_page(
    title: str, subtitle: str, note: str, looks: Mapping[str, Look], texts: Sequence[str] = (), *, height: float
) -> Figure:
    """Return a page with room for axes of `height` inches below the legend of names and the lines of `texts`."""
    from matplotlib.lines import Line2D

    names, texts = list(looks), [literal(text) for text in texts]
    columns = max(1, int((WIDTH - 0.3) / (0.75 + LETTER * SMALL / 72 * max(len(cut(name, 30)) for name in names))))
    size = SMALL if len(texts) <= FEW else SMALL - 2
    texts = [cut(text, int((WIDTH - 0.3) * 72 / (LETTER * size))) for text in texts]
    column = LETTER * size / 72 * (max(map(len, texts), default=0) + 2)
    beside = max(1, int((WIDTH - 0.3) / column)) if texts else 1
    lines = math.ceil(len(texts) / beside)
    below = HEAD + 0.14 + 0.25 * math.ceil(len(names) / columns)  # inches from the top: the end of the methods
    head = below + 0.21 * lines + 0.05 * bool(lines)
    figure = page(title, subtitle, note, height=head + height + FOOT)
    full = figure.get_figheight()
    look: dict[str, Any] = {"markersize": 9, "linewidth": 1.8}
    handles = [
        Line2D([], [], label=literal(cut(name, 30)), **(found.marker | look | {"linestyle": found.line}))
        for name, found in looks.items()
    ]
    corner = (0.1 / WIDTH, 1 - (HEAD + 0.04) / full)
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=corner, ncols=columns, fontsize=SMALL, borderaxespad=0
    )
    for at, text in enumerate(texts):  # down the columns
        left, top = 0.15 + column * (at // lines), below + 0.21 * (at % lines)
        figure.text(left / WIDTH, 1 - top / full, text, va="top", size=size)
    lay_out(figure, head)
    return figure


def cut(text: str, longest: int) -> str:
    """Return the text, cut if it is longer."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def looks_of(every: Iterable[Variant]) -> dict[str, Look]:
    """Choose a look for each method: the role of its kind, and another filling for each of its variants."""
    more = iter(MORE_ROLES)
    roles = dict(ROLES)
    seen: dict[str, list[str]] = defaultdict(list)
    looks = {}
    for variant in every:
        if variant.method in looks:
            continue
        if variant.quant not in roles:
            roles[variant.quant] = next(more, FLOAT)
        filling, line = FILLINGS[len(seen[variant.quant]) % len(FILLINGS)]
        seen[variant.quant].append(variant.method)
        looks[variant.method] = Look(roles[variant.quant], filling, line)
    return looks
