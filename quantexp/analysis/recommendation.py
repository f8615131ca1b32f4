"""Which method when: a few sentences drawn from the sweep's own figures, and what these cannot tell.

With one seed a loss of accuracy is what the exact McNemar test tells, and a speedup what its interval over the
placements tells. With several seeds both are differences taken seed by seed, with Student's t over the seeds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from quantexp.analysis.ratios import Ratio, between, over_float
from quantexp.analysis.seeds import difference, spread
from quantexp.analysis.variants import Network, Settings, Setup, Variant, networks, settings_text, setup_names
from quantexp.results import Comparison
from quantexp.results.sweep import SweepResult
from quantexp.results.text import p_text, size_text

NEARLY = 1.05  # times the smallest size
FEW = 3  # networks of a task that each have a paragraph of their own
MOST_NAMED = 6  # methods in one sentence
NO_MODEL = "No run of this sweep measured a model; what a study found stands in its own record."
NOT_TOLD = "No two methods of this sweep can be compared: only the float model was measured."


def which_when(sweep: SweepResult) -> str:
    """Return a paragraph for each network, or for the many of one task, in each setup."""
    found = [one for one in networks(sweep) if len(one.variants) > 1]
    names = setup_names(list(dict.fromkeys(one.setup for one in found)))
    together: dict[tuple[str, Setup], list[Network]] = defaultdict(list)
    for one in found:
        together[one.task, one.setup].append(one)
    paragraphs = []
    told: set[tuple[str, Settings, tuple[str, str]]] = set()
    tasks = list(dict.fromkeys(task for task, _ in together))
    for (task, setup), ones in sorted(together.items(), key=lambda item: tasks.index(item[0][0])):
        if len(ones) > FEW:
            where = ", ".join(text for text in (f"{len(ones)} networks", names[setup]) if text)
            paragraphs.append(" ".join([f"{task} ({where}):", *_across(ones)]))
            continue
        for one in ones:
            where = ", ".join(text for text in (settings_text(one.settings), names[setup]) if text)
            place = task, one.settings, setup.place  # size and accuracy are the same under another protocol
            paragraphs.append(" ".join([f"{task}{f' ({where})' * bool(where)}:", *_advice(one, place in told)]))
            told.add(place)
    return "\n\n".join(paragraphs or [NOT_TOLD if sweep.entries else NO_MODEL])


def _across(ones: Sequence[Network]) -> Iterator[str]:
    """Yield how each method does over many networks: how often it is faster, from where to where, at what cost."""
    for method in dict.fromkeys(one.method for network in ones for one in network.variants if not one.is_float):
        pairs = [(network, one) for network in ones for one in network.variants if one.method == method]
        for size in sorted({size for _, one in pairs for size in one.sizes}):
            ratios = [(ratio, network) for network, one in pairs if (ratio := over_float(one, size))]
            if not ratios:
                continue
            least, most = min(ratios, key=_centre), max(ratios, key=_centre)
            ends = " to ".join(f"{ratio} ({settings_text(network.settings)})" for ratio, network in (least, most))
            faster = sum(ratio.verdict == "faster" for ratio, _ in ratios)
            yield (
                f"{method} at batch {size} is told to be faster than float in {faster} of {len(ratios)} networks, "
                f"from {ends}."
            )
        for verdict, words in (("a loss", "loses"), ("a gain", "gains")):
            told = [
                f"{settings_text(network.settings)} ({accuracy_figures(one)})"
                for network, one in pairs
                if accuracy_verdict(one) == verdict
            ]
            if told:
                yield f"It {words} accuracy that can be told in {len(told)} of {len(pairs)}: {'; '.join(told)}."
        if all(accuracy_verdict(one) == "not told" for _, one in pairs):
            yield "No change of accuracy can be told in any."
    every = [one for network in ones for one in network.variants]
    best = max(every, key=lambda one: spread(list(one.accuracies().values())).mean)
    accuracy = 100 * spread(list(best.accuracies().values())).mean
    yield f"The most accurate is {best.method} with {settings_text(best.network)}, {accuracy:.2f} %."


def _centre(pair: tuple[Ratio, Network]) -> float:
    return pair[0].centre


def _advice(network: Network, again: bool) -> Iterator[str]:
    """Yield the sentences on one network: speed and, unless it comes again, size, accuracy, and what follows."""
    others = [one for one in network.variants if not one.is_float]
    fastest = {size: _ranked(others, size) for size in network.sizes}
    fastest = {size: ranked for size, ranked in fastest.items() if ranked}
    ratios = {size: ranked[0][1] for size, ranked in fastest.items()}
    yield from _runs({size: _fastest(ranked) for size, ranked in fastest.items()}, ratios)
    if not again:
        yield _smallest(network, others)
        yield from _accuracy(others)
        losses = [one for one in others if accuracy_verdict(one) == "a loss"]
        yield from _conclusion({size: _take(ranked, losses) for size, ranked in fastest.items()})
    shaky = {one.method: [size for size in network.sizes if one.unstable(size)] for one in network.variants}
    if told := [f"{method} at {_all(sizes)}" for method, sizes in shaky.items() if sizes]:
        yield f"Unstable, to be measured again on a quiet machine: {_listed(told)}."


def accuracy_verdict(one: Variant) -> str:
    """Return "a loss", "a gain" or "not told", against the float model of the same seeds."""
    found = _comparisons(one)
    if len(found) == 1:
        said = found[0].accuracy_verdict
        return said if said in ("a loss", "a gain") else "not told"
    change = difference([-comparison.accuracy_drop for comparison in found], one.step)
    if change is None or not change.told:
        return "not told"
    return "a loss" if change.mean < 0 else "a gain"


def _ranked(others: Sequence[Variant], size: int) -> list[tuple[Variant, Ratio, list[Variant]]]:
    """Return the variants from the fastest on, each with its ratio and those that cannot be told from it."""
    measured = [(one, ratio) for one in others if (ratio := over_float(one, size))]
    measured.sort(key=lambda pair: -pair[1].centre)
    return [
        (one, ratio, [other for other, _ in measured if other is not one and not _told_apart(one, other, size)])
        for one, ratio in measured
    ]


def _told_apart(one: Variant, other: Variant, size: int) -> bool:
    ratio = between(one, other, size)
    return ratio is not None and ratio.told


def _fastest(ranked: Sequence[tuple[Variant, Ratio, list[Variant]]]) -> str:
    """Say which is fastest, in words that are equal where the same is true."""
    one, ratio, equals = ranked[0]
    equal = f" ({_listed([other.method for other in equals])} cannot be told from it)" if equals else ""
    if ratio.verdict == "faster":
        return f"{one.method} is the fastest{equal}"
    if ratio.verdict == "no interval":
        first = f"{one.method} has the lowest latency" if ratio.centre > 0 else "the float model has the lowest latency"
        return f"{first}, but this protocol has no intervals to tell differences by"
    return f"nothing is told to be faster than float; {one.method} comes nearest"


def _runs(said: dict[int, str], values: dict[int, Ratio]) -> Iterator[str]:
    """Yield a sentence for each run of batch sizes of which the same is said, with the figures at its ends."""
    for sizes in _same(said):
        figures = f"{values[sizes[0]]}" if len(sizes) == 1 else f"{values[sizes[0]]} {_and(sizes)} {values[sizes[-1]]}"
        yield f"At {_sizes(sizes)} {said[sizes[0]]}: {figures} as fast as float."


def _smallest(network: Network, others: Sequence[Variant]) -> str:
    sizes_mb = {one.method: spread([report.result.size_mb for report in one.reports.values()]).mean for one in others}
    float_mb = next(iter(network.variants[0].reports.values())).result.size_mb
    method, least = min(sizes_mb.items(), key=lambda pair: pair[1])
    if least * 1.01 >= float_mb:
        return f"None is smaller than the float model ({size_text(float_mb)} MB)."
    near = [other for other, size_mb in sizes_mb.items() if other != method and size_mb <= NEARLY * least]
    close = f"; {_listed(near)} within 5 % of it" if near else ""
    return f"The smallest is {method}, {size_text(least)} MB, {float_mb / least:.2f}x smaller than float{close}."


def _accuracy(others: Sequence[Variant]) -> Iterator[str]:
    """Yield what is told of the accuracy: losses, gains, and what cannot be told."""
    verdicts = {one.method: accuracy_verdict(one) for one in others}
    figures = {one.method: accuracy_figures(one) for one in others}
    p_values = {one.method: _p_value(one) for one in others}
    for verdict, words in (("a loss", "Accuracy is lost by"), ("a gain", "Accuracy is gained by")):
        told = [
            f"{method} ({figures[method]}{p_values[method]})" for method, said in verdicts.items() if said == verdict
        ]
        if told:
            yield f"{words} {_listed(told)}."
    untold = [f"{method} ({figures[method]})" for method, said in verdicts.items() if said == "not told"]
    if untold:
        yield f"No change of accuracy can be told for {_listed(untold)}."
        drops = [found[0].detectable_drop for one in others if len(found := _comparisons(one)) == 1]
        if drops:
            (split, *_) = {report.data.evaluation for one in others for report in one.reports.values()}
            least = f"{100 * max(drops):.2f} points"
            sentence = f"A true drop of {least} would be told in 4 of 5 such {split} sets, a smaller one less often."
            yield sentence if max(drops) < 1 else f"So few {split} examples tell no drop."


def accuracy_figures(one: Variant) -> str:
    """Return how the accuracy changed against the float model of the same seeds."""
    found = _comparisons(one)
    if len(found) == 1:
        only = found[0]
        flips = f"{only.flips_gained} gained, {only.flips_lost} lost"
        return f"{100 * (0 - only.accuracy_drop):+z.2f} points: {flips}"
    change = difference([-comparison.accuracy_drop for comparison in found], one.step)
    if change is None:
        return "not compared"
    low, high = 100 * change.low, 100 * change.high
    return f"{100 * change.mean:+z.2f} points [{low:+z.2f}, {high:+z.2f}] over {change.n} seeds"


def _p_value(one: Variant) -> str:
    """Return the p-value of the McNemar test of a single run."""
    found = _comparisons(one)
    if len(found) != 1:
        return ""
    return f", {p_text(found[0].p_value)}"


def _take(ranked: Sequence[tuple[Variant, Ratio, list[Variant]]], losses: Sequence[Variant]) -> str:
    """Say what to take at one batch size: the fastest that is told to be faster and of which no loss is told."""
    for one, ratio, _ in ranked:
        if ratio.verdict == "faster" and one not in losses:
            return one.method
        if ratio.verdict == "no interval":
            return ""
    return "the float model"


def _conclusion(take: dict[int, str]) -> Iterator[str]:
    named = {size: method for size, method in take.items() if method}
    parts = [f"{named[sizes[0]]} at {_sizes(sizes)}" for sizes in _same(named)]
    if parts:
        yield f"For speed without a loss that can be told: {', '.join(parts)}."


def _same(said: dict[int, str]) -> list[list[int]]:
    """Return runs of neighbouring batch sizes of which the same is said."""
    runs: list[list[int]] = []
    for size in sorted(said):
        if runs and said[runs[-1][-1]] == said[size]:
            runs[-1].append(size)
        else:
            runs.append([size])
    return runs


def _sizes(sizes: Sequence[int]) -> str:
    if len(sizes) == 1:
        return f"batch {sizes[0]}"
    return f"batches {sizes[0]} {_and(sizes)} {sizes[-1]}"


def _all(sizes: Sequence[int]) -> str:
    """Name sizes that need not be neighbours; many are only counted."""
    return f"{len(sizes)} batch sizes" if len(sizes) > 2 else _sizes(sizes)


def _and(sizes: Sequence[int]) -> str:
    """Return the word between the first and the last of several sizes."""
    return "and" if len(sizes) == 2 else "to"


def _comparisons(one: Variant) -> list[Comparison]:
    return [report.comparison for report in one.reports.values() if report.comparison]


def _listed(names: Sequence[str]) -> str:
    """Name them all, or of very many the first; the tables have them all."""
    if len(names) > MOST_NAMED:
        return f"{', '.join(names[: MOST_NAMED - 1])} and {len(names) - MOST_NAMED + 1} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
