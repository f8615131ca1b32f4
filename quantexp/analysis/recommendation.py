"""The recommendation: which method to use, in a few sentences drawn from the figures of a sweep.

With one seed, a change of accuracy is significant by the exact McNemar test, and a speedup by its interval over the
placements. With several seeds, both are significant by the confidence interval of the differences per seed. Without
labels, accuracy is unknown: the sentences say how close the outputs are to those of the float network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from quantexp.analysis import quality, runtimes
from quantexp.analysis.names import setup_names
from quantexp.analysis.quality import change_from_float
from quantexp.analysis.ratios import Ratio, between, over_float
from quantexp.analysis.settings import Settings, settings_text
from quantexp.analysis.values import size_mb
from quantexp.analysis.variants import Network, Setup, Variant, networks
from quantexp.results.comparison import GAIN, LOSS, NO_DIFFERENCE
from quantexp.results.sweep import SweepResult
from quantexp.results.text import listed, p_text, size_text

NEAR = 1.05  # times the smallest size
FEW = 3  # networks of a task that have a paragraph each
MOST_NAMED = 6  # methods in one sentence
NO_MODEL = "No run of this sweep measured a model; the results of a study are in its own record."
NONE_FINISHED = "No combination of this sweep is finished yet."
ONLY_FLOAT = "Nothing to compare: only the float model was measured."
UNLABELLED = "The data have no labels, so the accuracy is unknown."

Ranked = Sequence[tuple[Variant, Ratio]]
"""Variants, fastest first, each with its speedup over float."""


def recommend(sweep: SweepResult) -> str:
    """Return a paragraph per network and setup, or one per task if it has many networks."""
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
            place = task, network.settings, setup.place  # size and accuracy do not depend on the protocol
            sentences = _sentences(network, again=place in described)
            paragraphs.append(" ".join([f"{task}{f' ({where})' * bool(where)}:", *sentences]))
            described.add(place)
    nothing = ONLY_FLOAT if sweep.entries else NONE_FINISHED if sweep.left else NO_MODEL
    return "\n\n".join([*runtimes.sentences(sweep), *paragraphs] or [nothing])


# Many networks


def _across(alike: Sequence[Network]) -> Iterator[str]:
    """Yield for each method in how many networks it is faster, the range of its speedups, and its accuracy."""
    for method in dict.fromkeys(variant.method for network in alike for variant in network.quantized):
        pairs = [(network, variant) for network in alike for variant in network.quantized if variant.method == method]
        for size in sorted({size for _, variant in pairs for size in variant.sizes}):
            ratios = [(ratio, network) for network, variant in pairs if (ratio := over_float(variant, size))]
            if ratios:
                least, most = (end(ratios, key=lambda pair: pair[0].centre) for end in (min, max))
                ends = " to ".join(f"{ratio} ({settings_text(network.settings)})" for ratio, network in (least, most))
                faster = sum(ratio.verdict == "faster" for ratio, _ in ratios)
                yield f"{method} at batch {size} is faster than float in {faster} of {len(ratios)} networks: {ends}."
        yield from _quality_across(pairs)
    every = [variant for network in alike for variant in network.variants]
    qualities = [(found.mean, variant) for variant in every if (found := quality.quality_percent([variant]))]
    if qualities:
        percent, best = max(qualities, key=lambda pair: pair[0])
        yield f"Most accurate: {best.method} with {settings_text(best.network)}, {percent:.2f} %."
    else:
        yield UNLABELLED


def _quality_across(pairs: Sequence[tuple[Network, Variant]]) -> Iterator[str]:
    changes = [(network.settings, change) for network, variant in pairs if (change := change_from_float(variant))]
    for verdict in (LOSS, GAIN):
        found = [(settings, change) for settings, change in changes if change.verdict == verdict]
        if len(found) > MOST_NAMED:
            found.sort(key=lambda pair: -abs(pair[1].gain))
        named = [f"{settings_text(settings)} ({change})" for settings, change in found[:MOST_NAMED]]
        if found:
            more = f"; and {len(found) - MOST_NAMED} others" if len(found) > MOST_NAMED else ""
            yield f"{verdict.capitalize()} of accuracy in {len(found)} of {len(changes)}: {'; '.join(named)}{more}."
    if changes and all(change.verdict == NO_DIFFERENCE for _, change in changes):
        yield "No significant difference in accuracy in any of them."
    if not changes:
        worst = min((variant for _, variant in pairs), key=_closeness)
        yield f"Its outputs are farthest from float with {settings_text(worst.network)}: {_closeness_text(worst)}."


# One network


def _sentences(network: Network, *, again: bool) -> Iterator[str]:
    """Yield the sentences on one network: speed and, unless they come again, size, accuracy and conclusion."""
    ranked = {size: found for size in network.sizes if (found := _ranked(network.quantized, size))}
    yield from _speed(ranked)
    if not again:
        yield _smallest(network)
        yield from _accuracy(network.quantized) if network.labelled else _close_to_float(network.quantized)
        yield from _conclusion(network, ranked)
    sizes = {variant.method: [size for size in network.sizes if variant.unstable(size)] for variant in network.variants}
    if unstable := [f"{method} at {_many(found)}" for method, found in sizes.items() if found]:
        yield f"Unstable latencies, measure again without what disturbed them: {listed(unstable, MOST_NAMED)}."


def _ranked(variants: Sequence[Variant], size: int) -> Ranked:
    measured = [(variant, ratio) for variant in variants if (ratio := over_float(variant, size))]
    return sorted(measured, key=lambda pair: -pair[1].centre)


def _speed(ranked: Mapping[int, Ranked]) -> Iterator[str]:
    """Yield one sentence per run of batch sizes with the same result, with the speedups at its ends."""
    results = {size: _fastest(found, size) for size, found in ranked.items()}
    ratios = {size: found[0][1] for size, found in ranked.items()}
    for sizes in _runs(results):
        ends = f"{ratios[sizes[0]]}" if len(sizes) == 1 else f"{ratios[sizes[0]]} {_and(sizes)} {ratios[sizes[-1]]}"
        yield f"At {_sizes(sizes)}, {results[sizes[0]]}: speedup {ends}."


def _fastest(ranked: Ranked, size: int) -> str:
    """Say which variant is fastest, in the same words for the same result."""
    (variant, ratio), *slower = ranked
    compared = [(other, between(variant, other, size)) for other, _ in slower]
    alike = [other for other, speedup in compared if speedup is None or not speedup.significant]
    others = listed([other.method for other in alike], MOST_NAMED)
    if ratio.verdict == "faster":
        return f"{variant.method} is fastest{f' (no significant difference to {others})' if alike else ''}"
    if ratio.verdict == "no interval":
        lowest = variant.method if ratio.centre > 0 else "float"
        return f"{lowest} has the lowest latency (this protocol gives no confidence intervals)"
    return f"no method is significantly faster than float; the closest is {variant.method}"


def _smallest(network: Network) -> str:
    sizes = {variant.method: size_mb(variant).mean for variant in network.quantized}
    float_mb = next(iter(network.variants[0].reports.values())).result.size_mb
    method, least = min(sizes.items(), key=lambda pair: pair[1])
    if least * 1.01 >= float_mb:
        return f"No method is smaller than float ({size_text(float_mb)} MB)."
    near = [other for other, size in sizes.items() if other != method and size <= NEAR * least]
    close = f"; within 5 % of it: {listed(near, MOST_NAMED)}" if near else ""
    return f"Smallest: {method}, {size_text(least)} MB, {float_mb / least:.2f}x smaller than float{close}."


def _accuracy(variants: Sequence[Variant]) -> Iterator[str]:
    """Yield significant losses and gains of accuracy, then the methods without, and what could be detected."""
    changes = [(variant, change) for variant in variants if (change := change_from_float(variant))]
    for verdict in (LOSS, GAIN):
        found = [
            f"{variant.method} ({change}{f', {p_text(change.test.p_value)}' if change.test else ''})"
            for variant, change in changes
            if change.verdict == verdict
        ]
        if found:
            yield f"{verdict.capitalize()} of accuracy: {listed(found, MOST_NAMED)}."
    if coarse := [variant.method for variant in variants if variant.has_finding("weights")]:
        yield f"One scale for all weights of a layer in {listed(coarse, MOST_NAMED)}: try quant.weights=per_channel."
    if equal := [f"{variant.method} ({change})" for variant, change in changes if change.verdict == NO_DIFFERENCE]:
        yield f"No significant difference in accuracy: {listed(equal, MOST_NAMED)}."
        if drops := [change.test.detectable_drop for _, change in changes if change.test]:
            split = next(iter(variants[0].reports.values())).data.evaluation
            if max(drops) < 1:
                yield f"Minimum detectable drop: {100 * max(drops):.2f} points (80 % power)."
            else:
                yield f"The {split} set is too small to detect any drop."


def _close_to_float(variants: Sequence[Variant]) -> Iterator[str]:
    """Yield how close the outputs of each variant are to those of the float network."""
    ordered = sorted(variants, key=_closeness, reverse=True)
    texts = [f"{variant.method} ({_closeness_text(variant)})" for variant in ordered]
    others = f", then {listed(texts[1:], MOST_NAMED)}" if len(texts) > 1 else ""
    yield f"Outputs closest to float: {texts[0]}{others}."
    yield UNLABELLED


def _closeness(variant: Variant) -> float:
    return min(map(quality.closeness_db, variant.comparisons.values()))


def _closeness_text(variant: Variant) -> str:
    same, sqnr = quality.agreement_percent(variant), quality.output_sqnr_db(variant)
    texts = [f"agreement {same.mean:.2f} %"] if same else []
    return ", ".join([*texts, f"SQNR {sqnr.mean:.1f} dB"] if sqnr else texts)


def _conclusion(network: Network, ranked: Mapping[int, Ranked]) -> Iterator[str]:
    chosen = {size: method for size, found in ranked.items() if (method := _choice(found))}
    if parts := [f"{chosen[sizes[0]]} at {_sizes(sizes)}" for sizes in _runs(chosen)]:
        if network.labelled:
            yield f"Recommended for speed without significant loss of accuracy: {', '.join(parts)}."
        else:
            yield f"Recommended for speed: {', '.join(parts)}; check the accuracy on labelled data."


def _choice(ranked: Ranked) -> str:
    """Return the fastest method that is significantly faster than float and without significant loss, else float."""
    for variant, ratio in ranked:
        change = change_from_float(variant)
        if ratio.verdict == "faster" and not (change and change.verdict == LOSS):
            return variant.method
        if ratio.verdict == "no interval":
            return ""
    return "float"


# Batch sizes


def _runs(results: Mapping[int, str]) -> list[list[int]]:
    """Return runs of neighbouring batch sizes with the same result."""
    runs: list[list[int]] = []
    for size in sorted(results):
        if runs and results[runs[-1][-1]] == results[size]:
            runs[-1].append(size)
        else:
            runs.append([size])
    return runs


def _sizes(sizes: Sequence[int]) -> str:
    return f"batch {sizes[0]}" if len(sizes) == 1 else f"batches {sizes[0]} {_and(sizes)} {sizes[-1]}"


def _many(sizes: Sequence[int]) -> str:
    """Name sizes that need not be neighbours; count them if there are many."""
    return f"{len(sizes)} batch sizes" if len(sizes) > 2 else _sizes(sizes)


def _and(sizes: Sequence[int]) -> str:
    """Return the word between the first and the last of several sizes."""
    return "and" if len(sizes) == 2 else "to"
