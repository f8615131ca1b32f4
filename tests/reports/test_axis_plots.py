"""Pictures over a number: latency over the size of the inputs, quality over the number of bits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from quantexp.reports.style import styled
from quantexp.reports.sweep_plots import figures
from quantexp.results.sweep import Entry, SweepResult
from tests.builders import entry, lone, method, speedup, sweep, unlabelled


def drawn(made: SweepResult, file: str) -> Figure:
    with styled():
        figure: Figure = figures(made)[file]
        figure.canvas.draw()
        return figure


def texts(figure: Figure) -> set[str]:
    found: Any = figure.findobj(Text)
    return {text.get_text() for text in found if text.get_text() and text.get_visible()}


def of_size(setting: str, value: str, ms: float, ratio: float = 2.0, **changes: Any) -> Entry:
    made = method("static", speedups=[speedup(1, ratio)], float_ms={1: ms}, **changes)
    return entry(made, **{setting: value})


def of_bits(bits: int, correct: int, seed: int = 0, train: bool = False, **changes: Any) -> Entry:
    made = method("fake_quant", "simulated", correct=correct, speedups=(), **changes)
    settings = {"quant.weight_bits": str(bits), "quant.train": str(train)}
    return entry(dataclasses.replace(made, seed=seed), **{name.replace(".", "__"): v for name, v in settings.items()})


def line(figure: Figure, axes: int, at: int) -> tuple[list[float], list[float]]:
    """Return the points of a line with whiskers."""
    holder: Any = figure.axes[axes].containers[at]
    across, up = holder.lines[0].get_data()
    return list(across), list(up)


SIZES = sweep(of_size("task__size", "224", 9.0), of_size("task__size", "96", 2.0), of_size("task__size", "160", 5.0))


def test_latency_is_drawn_over_the_size_of_the_inputs_in_its_order() -> None:
    figure = drawn(SIZES, "input-sizes.png")
    assert line(figure, 0, 0) == ([96, 160, 224], [2.0, 5.0, 9.0])  # float
    assert line(figure, 0, 1) == ([96, 160, 224], [1.0, 2.5, 4.5])
    assert line(figure, 1, 0) == ([96, 160, 224], [pytest.approx(2.0)] * 3)
    assert {"side of the images (pixels)", "latency (ms)", "speedup over float", "static int8"} <= texts(figure)


def test_networks_of_several_tasks_share_the_picture_with_a_row_each() -> None:
    sound = {"task": "audio", "task_title": "audio"} if hasattr(method("static"), "task_title") else {"task": "audio"}
    both = [of_size("task__seconds", value, ms, **sound) for value, ms in (("0.5", 3.0), ("2.0", 12.0))]
    figure = drawn(SweepResult("s", "", (*SIZES.entries, *both)), "input-sizes.png")
    assert len(figure.axes) == 4
    assert line(figure, 2, 0) == ([0.5, 2.0], [3.0, 12.0])
    assert {"side of the images (pixels)", "sound (seconds)"} <= texts(figure)


def test_one_size_needs_no_picture() -> None:
    assert "input-sizes.png" not in figures(sweep(of_size("task__size", "96", 2.0)))


def test_networks_that_differ_in_more_than_the_size_have_rows_of_their_own() -> None:
    entries = [
        entry(method("static", speedups=[speedup(1, 2.0)]), task__size=size, model__network=network)
        for size in ("96", "224")
        for network in ("resnet18", "vgg11")
    ]
    figure = drawn(sweep(*entries), "input-sizes.png")
    assert len(figure.axes) == 4
    assert {"mnist, network=resnet18", "mnist, network=vgg11"} <= texts(figure)


BITS = sweep(
    *(
        of_bits(bits, base + 10 * train + seed, seed, train)
        for bits, base in ((1, 500), (2, 700), (4, 960))
        for train in (False, True)
        for seed in (0, 1, 2)
    )
)


def test_accuracy_is_drawn_over_bits_with_a_line_for_rounded_and_for_trained() -> None:
    figure = drawn(BITS, "bits.png")
    assert line(figure, 0, 0) == ([1, 2, 4], pytest.approx([50.1, 70.1, 96.1]))
    assert line(figure, 0, 1) == ([1, 2, 4], pytest.approx([51.1, 71.1, 97.1]))
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([97.8, 97.8])  # float
    named = {"float", "rounded after training", "trained with rounding"}
    assert named | {"bits of weights", "accuracy (%)"} <= texts(figure)
    assert "simulated in float; whiskers: ± std over 3 seeds" in texts(figure)


def test_bits_of_networks_of_several_tasks_share_the_picture() -> None:
    other = [of_bits(bits, 800 + bits, task="sst2") for bits in (1, 2)]
    figure = drawn(SweepResult("s", "", (*BITS.entries, *other)), "bits.png")
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 2


def test_one_number_of_bits_needs_no_picture() -> None:
    assert "bits.png" not in figures(sweep(of_bits(2, 900), lone()))


def test_without_labels_the_agreement_is_drawn_and_float_is_100_percent() -> None:
    entries = [
        entry(unlabelled(quant="fake_quant", precision="simulated"), quant__weight_bits=str(bits)) for bits in (2, 4)
    ]
    figure = drawn(sweep(*entries), "bits.png")
    assert figure.axes[0].lines[0].get_ydata() == [100.0, 100.0]
    assert "agreement (%)" in texts(figure)
