"""Cells of tables: figures with their interval, deviation or verdict."""

from __future__ import annotations

from quantexp.analysis.quality import Change, agreement_percent, output_sqnr_db
from quantexp.analysis.ratios import Ratio
from quantexp.analysis.seeds import Spread
from quantexp.analysis.variants import Variant
from quantexp.results import Energy, EnergyRatio, Latency, Quality, Speedup
from quantexp.results.comparison import FASTER, NO_DIFFERENCE, SLOWER
from quantexp.results.sweep import Entry
from quantexp.results.text import significant_text

LONGEST_ERROR = 100  # characters of an error that a table shows


def known(value: float | None, digits: int) -> str:
    """Return a number, or nothing if it is not known."""
    return "" if value is None else f"{value:.{digits}f}"


def quality_text(quality: Quality) -> str:
    """Return a quality in percent with its interval."""
    return f"{100 * quality.value:.2f} [{100 * quality.low:.2f}, {100 * quality.high:.2f}]"


def mean_std(latency: Latency) -> str:
    """Return the mean latency in milliseconds with its standard deviation."""
    return f"{latency.mean_ms:.3f} ± {latency.std_ms:.3f}"


def energy_text(energy: Energy) -> str:
    """Return the energy for one example in millijoules with its interval: `1.30 [1.28, 1.32]`."""
    return significant_text(*(1e3 * joules for joules in (energy.joules, energy.low_joules, energy.high_joules)))


def energy_ratio_text(ratio: EnergyRatio) -> str:
    """Return float's energy over that of the quantized network, with a short verdict: `1.85x [1.80, 1.91] less`."""
    return f"{ratio.ratio:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] {ratio.word}"


def spread_text(found: Spread | None, digits: int) -> str:
    """Return a mean and, of several values, their standard deviation; nothing if there is none."""
    if found is None:
        return ""
    return f"{found.mean:.{digits}f}" if found.std is None else f"{found.mean:.{digits}f} ± {found.std:.{digits}f}"


def closeness_cells(variant: Variant) -> tuple[str, str]:
    """Return agreement in percent and output SQNR in dB, both with respect to float."""
    return spread_text(agreement_percent(variant), 2), spread_text(output_sqnr_db(variant), 1)


def interval_text(speedup: Speedup) -> str:
    """Return the speedup with its interval, if it has one."""
    ratio = f"{speedup.ratio:.2f}x"
    return ratio if speedup.low is None else f"{ratio} [{speedup.low:.2f}, {speedup.high:.2f}]"


def speedup_text(speedup: Speedup) -> str:
    """Return the speedup with its interval and a short verdict: `1.02x [0.99, 1.05] undecided`."""
    word = "" if speedup.low is None else speedup.word
    return f"{interval_text(speedup)} {word}".rstrip()


def speedup_word(speedup: Speedup) -> str:
    """Return the speedup, with a word if it is significant: `1.25x faster`, `1.01x`."""
    word = speedup.word if speedup.word in (FASTER, SLOWER) else ""
    return f"{speedup.ratio:.2f}x {word}".rstrip()


def ratio_text(ratio: Ratio | None, *, unstable: bool = False) -> str:
    """Return the speedup with its verdict, and an asterisk if the latency is unstable."""
    return f"{ratio} {ratio.verdict}{'*' * unstable}" if ratio else ""


def significance(change: Change) -> str:
    """Return whether a change is significant: `no`, or `loss` or `gain`."""
    return "no" if change.verdict == NO_DIFFERENCE else change.verdict.removeprefix("significant ")


def error_text(entry: Entry) -> str:
    """Return the error of a failed run in a short line."""
    text = " ".join((entry.error or "no result was recorded").split())
    return text if len(text) <= LONGEST_ERROR else f"{text[: LONGEST_ERROR - 3]}..."
