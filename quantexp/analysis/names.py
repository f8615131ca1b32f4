"""Names of setups, machines and networks: what distinguishes them from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantexp.analysis.settings import settings_text
from quantexp.analysis.variants import Network, Setup
from quantexp.results.text import threads_text


def setup_names(every: Sequence[Setup]) -> dict[Setup, str]:
    """Return what distinguishes each setup, such as `lab` or `2 threads, node7`; empty if there is only one."""
    every = list(dict.fromkeys(every))
    places = place_names(every)
    names = {}
    for setup in every:
        parts = [
            setup.protocol if len({other.protocol for other in every}) > 1 else "",
            threads_text(setup.threads) if len({other.threads for other in every}) > 1 else "",
            places[setup.place] if len(places) > 1 else "",
            settings_text(setup.settings),
        ]
        names[setup] = ", ".join(part for part in parts if part)
    return names


def place_names(every: Sequence[Setup]) -> dict[tuple[str, str], str]:
    """Return a name for each machine: its host, with a number if hardware or versions of that host changed."""
    places = list(dict.fromkeys(setup.place for setup in every))
    names = {}
    for place in places:
        namesakes = [other for other in places if other[0] == place[0]]
        names[place] = place[0] if len(namesakes) == 1 else f"{place[0]} #{namesakes.index(place) + 1}"
    return names


def network_title(network: Network, names: Mapping[Setup, str]) -> str:
    """Return the title of a network: its task, its settings, and the name of its setup."""
    parts = (network.task, settings_text(network.settings), names[network.setup])
    return ", ".join(part for part in parts if part)
