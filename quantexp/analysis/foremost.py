"""The networks that are shown where there is no room for all: those that lead, and the first ones."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence

from quantexp.analysis.pareto import pareto_front
from quantexp.analysis.values import latency_value, quality_value, size_value
from quantexp.analysis.variants import Network, Variant


def foremost(networks: Sequence[Network], most: int) -> list[Network]:
    """Return the networks with at most `most` variants in all, in the order of the sweep.

    The variants on a Pareto front come first: of quality and latency at the smallest and the largest batch size, of
    quality and size. The first ones of the sweep follow. The float network stays with its quantized ones.
    """
    every = [variant for network in networks for variant in network.variants]
    if len(every) <= most:
        return list(networks)
    first = {id(variant) for variant in leading(networks)}
    of_variant = {id(variant): network for network in networks for variant in network.variants}
    chosen: set[int] = set()
    for variant in sorted(every, key=lambda variant: id(variant) not in first):
        wanted = {id(variant), id(of_variant[id(variant)].variants[0])}
        if len(chosen | wanted) <= most:
            chosen |= wanted
    kept = ([variant for variant in network.variants if id(variant) in chosen] for network in networks)
    return [
        dataclasses.replace(network, variants=tuple(few)) for network, few in zip(networks, kept, strict=True) if few
    ]


def foremost_networks(networks: Sequence[Network], most: int) -> list[Network]:
    """Return at most `most` whole networks, in the order of the sweep: those with a variant on a front come first."""
    first = {id(variant) for variant in leading(networks)}
    ranked = sorted(networks, key=lambda network: not any(id(variant) in first for variant in network.variants))
    chosen = {id(network) for network in ranked[:most]}
    return [network for network in networks if id(network) in chosen]


def leading(networks: Iterable[Network]) -> list[Variant]:
    """Return the variants on a Pareto front of their task and setup."""
    grouped: dict[object, list[Variant]] = defaultdict(list)
    for network in networks:
        grouped[network.task, network.setup] += network.variants
    found: dict[int, Variant] = {}
    for alike in grouped.values():
        sizes = sorted({size for variant in alike for size in variant.sizes})
        for size in sizes[:1] + sizes[-1:]:
            timed = [variant for variant in alike if variant.latencies(size)]
            points = [(latency_value(variant, size).value, quality_value(variant).value) for variant in timed]
            found |= {id(timed[at]): timed[at] for at in pareto_front(points)}
        points = [(size_value(variant).value, quality_value(variant).value) for variant in alike]
        found |= {id(alike[at]): alike[at] for at in pareto_front(points)}
    return list(found.values())
