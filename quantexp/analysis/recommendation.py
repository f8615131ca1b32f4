"""Which method when: a few sentences drawn from the sweep's own figures, and what these cannot tell.

With one seed a loss of accuracy is what the exact McNemar test tells, and a speedup what its interval over the
placements tells. With several seeds both are differences taken seed by seed, with Student's t over the seeds.
Without labels nothing is known of accuracy: the sentences say how close to the float network each method is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from quantexp.analysis.names import setup_names
from quantexp.analysis.quality import (
    agreement_percent,
    change_from_float,
    closeness_db,
    output_sqnr_db,
    quality_percent,
)
from quantexp.analysis.ratios import Ratio, between, over_float
from quantexp.analysis.settings import Settings, settings_text
from quantexp.analysis.values import size_mb
from quantexp.analysis.variants import Network, Setup, Variant, networks
from quantexp.results.comparison import GAIN, LOSS, NO_DIFFERENCE
from quantexp.results.sweep import SweepResult
from quantexp.results.text import listed, p_text, size_text

NEARLY = 1.05  # times the smallest size
FEW = 3  # networks of a task that each have a paragraph of their own
MOST_NAMED = 6  # methods in one sentence
NO_MODEL = "No run of this sweep measured a model; what a study found stands in its own record."
NOT_TOLD = "No two methods of this sweep can be compared: only the float model was measured."
UNLABELLED = "The data have no labels, so that nothing is known of accuracy."

Ranked = Sequence[tuple[Variant, Ratio, list[Variant]]]
"""Variants from the fastest on, each with its speedup and the variants that are not significantly slower or faster."""


def which_when(sweep: SweepResult) -> str:
    """Return a paragraph for each network, or for the many of one task, in each setup."""
    found = [network for network in networks(sweep) if len(network.variants) > 1]
    names = setup_names(list(dict.fromkeys(network.setup for network in found)))
    together: dict[tuple[str, Setup], list[Network]] = defaultdict(list)
    for network in found:
        together[network.task, network.setup].append(network)
    tasks = list(dict.fromkeys(task for task, _ in together))
    paragraphs: list[str] = []
    described: set[tuple[str, Settings, tuple[str, str]]] = set()
    for (task, setup), alike in sorted(together.items(), key=lambda item: tasks.index(item[0][0])):
        if len(alike) > FEW:
            where = ", ".join(text for text in (f"{len(alike)} networks", names[setup]) if text)
            paragraphs.append(" ".join([f"{task} ({where}):", *_across(alike)]))
            continue
        for network in alike:
            where = ", ".join(text for text in (settings_text(network.settings), names[setup]) if text)
            place = task, network.settings, setup.place  # size and accuracy are the same under another protocol
            sentences = _sentences(network, again=place in described)
            paragraphs.append(" ".join([f"{task}{f' ({where})' * bool(where)}:", *sentences]))
            described.add(place)
    return "\n\n".join(paragraphs or [NOT_TOLD if sweep.entries else NO_MODEL])


# Many networks


def _across(alike: Sequence[Network]) -> Iterator[str]:
    """Yield how each method does over many networks: how often it is faster, from where to where, at what cost."""
    for method in dict.fromkeys(variant.method for network in alike for variant in network.quantized):
        pairs = [(network, variant) for network in alike for variant in network.quantized if variant.method == method]
        for size in sorted({size for _, variant in pairs for size in variant.sizes}):
            ratios = [(ratio, network) for network, variant in pairs if (ratio := over_float(variant, size))]
            if ratios:
                least, most = (end(ratios, key=lambda pair: pair[0].centre) for end in (min, max))
                ends = " to ".join(f"{ratio} ({settings_text(network.settings)})" for ratio, network in (least, most))
                faster = sum(ratio.verdict == "faster" for ratio, _ in ratios)
                yield (
                    f"{method} at batch {size} is told to be faster than float in {faster} of {len(ratios)} networks, "
                    f"from {ends}."
                )
        yield from _quality_across(pairs)
    every = [variant for network in alike for variant in network.variants]
    qualities = [(found.mean, variant) for variant in every if (found := quality_percent([variant]))]
    if qualities:
        percent, best = max(qualities, key=lambda pair: pair[0])
        yield f"The most accurate is {best.method} with {settings_text(best.network)}, {percent:.2f} %."
    else:
        yield UNLABELLED


def _quality_across(pairs: Sequence[tuple[Network, Variant]]) -> Iterator[str]:
    changes = [(network, change) for network, variant in pairs if (change := change_from_float(variant))]
    for verdict, words in ((LOSS, "loses"), (GAIN, "gains")):
        told = [
            f"{settings_text(network.settings)} ({found})" for network, found in changes if found.verdict == verdict
        ]
        if told:
            yield f"It {words} accuracy that can be told in {len(told)} of {len(changes)}: {'; '.join(told)}."
    if changes and all(change.verdict == NO_DIFFERENCE for _, change in changes):
        yield "No change of accuracy can be told in any."
    if not changes:
        least = min((variant for _, variant in pairs), key=_closeness)
        yield f"It is farthest from float with {settings_text(least.network)}: {_closeness_text(least)}."


# One network


def _sentences(network: Network, *, again: bool) -> Iterator[str]:
    """Yield the sentences on one network: speed and, unless it comes again, size, accuracy, and what follows."""
    ranked = {size: found for size in network.sizes if (found := _ranked(network.quantized, size))}
    yield from _speed(ranked)
    if not again:
        yield _smallest(network)
        yield from _accuracy(network.quantized) if network.labelled else _close_to_float(network.quantized)
        yield from _conclusion(network, ranked)
    shaky = {variant.method: [size for size in network.sizes if variant.unstable(size)] for variant in network.variants}
    if told := [f"{method} at {_many(sizes)}" for method, sizes in shaky.items() if sizes]:
        yield f"Unstable, to be measured again on a quiet machine: {listed(told, MOST_NAMED)}."


def _ranked(variants: Sequence[Variant], size: int) -> Ranked:
    measured = [(variant, ratio) for variant in variants if (ratio := over_float(variant, size))]
    measured.sort(key=lambda pair: -pair[1].centre)

    def alike(variant: Variant, other: Variant) -> bool:
        ratio = between(variant, other, size)
        return ratio is None or not ratio.significant

    return [
        (variant, ratio, [other for other, _ in measured if other is not variant and alike(variant, other)])
        for variant, ratio in measured
    ]


def _speed(ranked: Mapping[int, Ranked]) -> Iterator[str]:
    """Yield a sentence for each run of batch sizes of which the same is said, with the figures at its ends."""
    said, ratios = ({size: of(found) for size, found in ranked.items()} for of in (_fastest, lambda found: found[0][1]))
    for sizes in _runs(said):
        figures = f"{ratios[sizes[0]]}" if len(sizes) == 1 else f"{ratios[sizes[0]]} {_and(sizes)} {ratios[sizes[-1]]}"
        yield f"At {_sizes(sizes)} {said[sizes[0]]}: {figures} as fast as float."


def _fastest(ranked: Ranked) -> str:
    """Say which is fastest, in words that are equal where the same is true."""
    variant, ratio, alike = ranked[0]
    equal = f" ({listed([other.method for other in alike], MOST_NAMED)} cannot be told from it)" if alike else ""
    if ratio.verdict == "faster":
        return f"{variant.method} is the fastest{equal}"
    if ratio.verdict == "no interval":
        lowest = variant.method if ratio.centre > 0 else "the float model"
        return f"{lowest} has the lowest latency, but this protocol has no intervals to tell differences by"
    return f"nothing is told to be faster than float; {variant.method} comes nearest"


def _smallest(network: Network) -> str:
    sizes = {variant.method: size_mb(variant).mean for variant in network.quantized}
    float_mb = next(iter(network.variants[0].reports.values())).result.size_mb
    method, least = min(sizes.items(), key=lambda pair: pair[1])
    if least * 1.01 >= float_mb:
        return f"None is smaller than the float model ({size_text(float_mb)} MB)."
    near = [other for other, size in sizes.items() if other != method and size <= NEARLY * least]
    close = f"; {listed(near, MOST_NAMED)} within 5 % of it" if near else ""
    return f"The smallest is {method}, {size_text(least)} MB, {float_mb / least:.2f}x smaller than float{close}."


def _accuracy(variants: Sequence[Variant]) -> Iterator[str]:
    """Yield what is told of the accuracy: losses, gains, and what cannot be told."""
    changes = [(variant, change) for variant in variants if (change := change_from_float(variant))]
    for verdict, words in ((LOSS, "Accuracy is lost by"), (GAIN, "Accuracy is gained by")):
        told = [
            f"{variant.method} ({change}{f', {p_text(change.test.p_value)}' if change.test else ''})"
            for variant, change in changes
            if change.verdict == verdict
        ]
        if told:
            yield f"{words} {listed(told, MOST_NAMED)}."
    if untold := [f"{one.method} ({change})" for one, change in changes if change.verdict == NO_DIFFERENCE]:
        yield f"No change of accuracy can be told for {listed(untold, MOST_NAMED)}."
        if drops := [change.test.detectable_drop for _, change in changes if change.test]:
            split = next(iter(variants[0].reports.values())).data.evaluation
            least = f"{100 * max(drops):.2f} points"
            sentence = f"A true drop of {least} would be told in 4 of 5 such {split} sets, a smaller one less often."
            yield sentence if max(drops) < 1 else f"So few {split} examples tell no drop."


def _close_to_float(variants: Sequence[Variant]) -> Iterator[str]:
    """Yield how close to the float network each variant is, which is all that is known without labels."""
    ordered = sorted(variants, key=_closeness, reverse=True)
    texts = [f"{variant.method} ({_closeness_text(variant)})" for variant in ordered]
    others = f", then {listed(texts[1:], MOST_NAMED)}" if len(texts) > 1 else ""
    yield f"Closest to float by its outputs is {texts[0]}{others}."
    yield UNLABELLED


def _closeness(variant: Variant) -> float:
    return min(map(closeness_db, variant.comparisons.values()))


def _closeness_text(variant: Variant) -> str:
    same, sqnr = agreement_percent(variant), output_sqnr_db(variant)
    texts = [f"agreement {same.mean:.2f} %"] if same else []
    return ", ".join([*texts, f"SQNR {sqnr.mean:.1f} dB"] if sqnr else texts)


def _conclusion(network: Network, ranked: Mapping[int, Ranked]) -> Iterator[str]:
    take = {size: method for size, found in ranked.items() if (method := _take(found))}
    if parts := [f"{take[sizes[0]]} at {_sizes(sizes)}" for sizes in _runs(take)]:
        condition = (
            "without a loss that can be told" if network.labelled else "if its accuracy on labelled data will do"
        )
        yield f"For speed {condition}: {', '.join(parts)}."


def _take(ranked: Ranked) -> str:
    """Return what to take at one batch size: the fastest that is told to be faster and of which no loss is told."""
    for variant, ratio, _ in ranked:
        change = change_from_float(variant)
        if ratio.verdict == "faster" and not (change and change.verdict == LOSS):
            return variant.method
        if ratio.verdict == "no interval":
            return ""
    return "the float model"


# Batch sizes


def _runs(said: Mapping[int, str]) -> list[list[int]]:
    """Return runs of neighbouring batch sizes of which the same is said."""
    runs: list[list[int]] = []
    for size in sorted(said):
        if runs and said[runs[-1][-1]] == said[size]:
            runs[-1].append(size)
        else:
            runs.append([size])
    return runs


def _sizes(sizes: Sequence[int]) -> str:
    return f"batch {sizes[0]}" if len(sizes) == 1 else f"batches {sizes[0]} {_and(sizes)} {sizes[-1]}"


def _many(sizes: Sequence[int]) -> str:
    """Name sizes that need not be neighbours; many are only counted."""
    return f"{len(sizes)} batch sizes" if len(sizes) > 2 else _sizes(sizes)


def _and(sizes: Sequence[int]) -> str:
    """Return the word between the first and the last of several sizes."""
    return "and" if len(sizes) == 2 else "to"
