from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from quantexp.reports.bar_plots import size_figure, time_figure
from quantexp.reports.latency_plots import latency_figure, ratios_figure
from quantexp.reports.plots import figures, pictures
from quantexp.reports.style import COMPILED, FLOAT, QUANTIZED
from quantexp.results import Comparison, Conditions, Report, Size
from tests.builders import comparison, conditions, data, lone, measured, other_float, report, speedup

ALL = ["latency.png", "ratios.png", "size.png", "time.png"]
SIZES = [1, 2, 4, 8, 16, 32, 64, 128]


def opened(picture: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    return image.convert("RGB")


def texts(figure: Figure | None) -> list[str]:
    assert figure is not None
    figure.canvas.draw()  # ticks are written when they are drawn
    found: Iterable[Any] = figure.findobj(Text)
    return [text.get_text() for text in found if text.get_text() and text.get_visible()]


def compared(made: Report) -> set[str]:
    figure = size_figure(made)
    assert figure is not None
    return {text.get_text() for text in figure.texts}


def without_placements() -> Comparison:
    return comparison(speedups=[speedup(1, 2.44, placements=1), speedup(64, 4.11, placements=1)])


def many_sizes() -> Report:
    return report(
        baseline=measured(ms={size: 0.2 + 0.027 * size for size in SIZES}),
        others=(other_float(ms={size: 0.16 + 0.025 * size for size in SIZES}),),
        quantized=measured("int8", ms={size: 0.09 + 0.006 * size for size in SIZES}),
        comparison=comparison(speedups=[speedup(size, 2 + 0.02 * size) for size in SIZES]),
    )


def unstable(batch_size: int) -> Conditions:
    return conditions(batch_size, unstable=("other processes kept 1.2 cores busy",))


# Files


@pytest.mark.parametrize(
    "made",
    [
        report(others=(other_float(),)),
        report(baseline=measured(ms={1: 0.2}), quantized=measured("int8", ms={1: 0.1})),
        report(comparison=comparison(speedups=[speedup(1, 0.5), speedup(64, 1.0)])),
        report(task="task_" * 20, quant="a_method_of_my_own", data=data("sample"), conditions=(unstable(64),)),
        many_sizes(),
    ],
    ids=["compiled", "one batch size", "slower", "long names", "many batch sizes"],
)
def test_every_picture_is_a_png_with_something_on_it_that_stays_on_the_page(made: Report) -> None:
    drawn = pictures(made)
    assert list(drawn) == ALL
    for picture in drawn.values():
        pixels = np.asarray(opened(picture))
        assert min(pixels.shape[:2]) >= 400
        assert 0.02 < (pixels < 250).any(axis=2).mean() < 0.6  # the rest is the white page
        assert all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


# What there is not is left out


def test_one_float_model_is_drawn_without_ratios() -> None:
    assert list(pictures(lone())) == ["latency.png", "size.png", "time.png"]


def test_the_lab_protocol_has_no_ratios_and_speedups_without_intervals() -> None:
    made = report(benchmark="lab", comparison=without_placements())
    assert "ratios.png" not in pictures(made)
    written = texts(latency_figure(made))
    assert {"2.44x", "4.11x"} <= set(written)
    assert not any("[" in text for text in written)


def test_a_report_without_profiles_has_no_picture_of_the_time() -> None:
    assert time_figure(report(baseline=measured(profiles=()), quantized=measured(profiles=()))) is None


def test_models_without_weights_have_no_picture_of_their_size() -> None:
    empty = Size(state_bytes=400, stored_bytes=900, weight_bytes={}, parameters=0)
    assert size_figure(lone(baseline=measured(size=empty))) is None


# What is written on them


@pytest.mark.parametrize("draw", [latency_figure, ratios_figure, size_figure, time_figure])
def test_each_picture_says_what_is_compared(draw: Callable[[Report], Figure | None]) -> None:
    assert "mnist, mlp: static int8 vs fp32, 1 thread" in texts(draw(report()))
    sample = report(task="sst2", quant="qat", data=data("sample"), threads=2)
    assert "sst2 (sample), mlp: qat int8 vs fp32, 2 threads" in texts(draw(sample))


def test_one_float_model_is_compared_with_nothing() -> None:
    for figure in figures(lone()).values():
        assert "mnist, mlp: fp32, 1 thread" in texts(figure)


def test_the_latencies_say_what_their_whiskers_are_and_each_speedup_has_its_interval() -> None:
    written = texts(latency_figure(report()))
    assert {"2.44x", "[2.43, 2.45]", "4.11x", "[4.09, 4.13]", "fp32", "static int8", "latency (ms)"} <= set(written)
    assert any("median" in text and "10 % to 90 %" in text and "95 % interval" in text for text in written)


def test_of_many_batch_sizes_each_speedup_is_written() -> None:
    written = texts(latency_figure(many_sizes()))
    assert {f"{2 + 0.02 * size:.2f}x" for size in SIZES} <= set(written)


def test_of_batch_sizes_too_close_to_write_both_one_speedup_is_written() -> None:
    sizes = (1, 64, 65)
    close = report(
        baseline=measured(ms=dict.fromkeys(sizes, 0.2)),
        quantized=measured("int8", ms=dict.fromkeys(sizes, 0.1)),
        comparison=comparison(speedups=[speedup(size, size / 10) for size in sizes]),
    )
    written = texts(latency_figure(close))
    assert "6.40x" in written
    assert "6.50x" not in written


def test_batch_sizes_in_any_order_have_their_speedups() -> None:
    times = {64: 1.9, 1: 0.2}
    speedups = [speedup(64, 4.11), speedup(1, 2.44)]
    turned = report(baseline=measured(ms=times), quantized=measured("int8", ms=times))
    assert {"2.44x", "4.11x"} <= set(
        texts(latency_figure(dataclasses.replace(turned, comparison=comparison(speedups=speedups))))
    )


def test_the_ratios_end_in_their_verdict() -> None:
    speedups = [speedup(1, 2.44), speedup(8, 0.5), speedup(64, 1.0)]
    written = texts(ratios_figure(report(comparison=comparison(speedups=speedups))))
    for one, verdict in zip(speedups, ("faster", "slower", "no difference of more than 1 %"), strict=True):
        assert one.verdict == verdict
        assert any(text.startswith(f"batch {one.batch_size}: ") and text.endswith(f", {verdict}") for text in written)


def test_every_placement_has_its_dot() -> None:
    figure = ratios_figure(report())
    assert figure is not None
    dots = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert tuple(dots[0]) == speedup(1, 2.44).per_placement


def test_figures_not_to_be_trusted_are_called_unstable() -> None:
    doubtful = report(conditions=(conditions(1), unstable(64)))
    assert "Latency by batch size (unstable at 64)" in texts(latency_figure(doubtful))
    assert any(text.endswith("(unstable at 64)") for text in texts(ratios_figure(doubtful)))
    assert "Latency by batch size" in texts(latency_figure(report()))


def test_sizes_are_written_in_mb_those_too_small_for_their_bar_beside_it() -> None:
    written = texts(size_figure(report()))
    assert {"fp32 5.88", "5.88 MB", "int8 1.47", "1.51 MB", "Weights in memory: 3.90x smaller"} <= set(written)
    assert "also fp32 0.01, fp64 0.02, int64 0.02" in written
    assert any("saved file is 3.95x smaller" in text for text in written)


def test_operators_beyond_the_largest_five_are_the_others() -> None:
    shares = {f"aten::op{index}": 0.2 - 0.02 * index for index in range(8)}
    written = texts(time_figure(lone(baseline=measured(ms={1: 0.2}, shares=shares))))
    assert {"op0", "op4", "other"} <= set(written)
    assert "op5" not in written
    assert written.count("20") + written.count("other 20") == 1  # what the first five, with 80 %, leave of all


# How they are drawn


def test_text_from_the_report_is_drawn_as_it_is() -> None:
    odd = {"$x_1$": 0.5, r"\frac{": 0.2, "語": 0.1, "a::name" * 20: 0.1}
    made = report(task="$a_b$", model="m^{", quant="$", baseline=measured(shares=odd))
    assert list(pictures(made)) == ALL  # half of this is no formula, and would not be drawn as one
    assert "$a_b$, m^{: $ int8 vs fp32, 1 thread" in compared(made)


@pytest.mark.slow
def test_a_model_has_its_colour_in_every_picture() -> None:
    drawn = pictures(report(others=(other_float(),)))
    pixels = {name: np.asarray(opened(picture)).reshape(-1, 3) for name, picture in drawn.items()}
    colours = {name: {tuple(pixel) for pixel in np.unique(of_one, axis=0).tolist()} for name, of_one in pixels.items()}
    rgb = {role: tuple(int(role.colour[at : at + 2], 16) for at in (1, 3, 5)) for role in (FLOAT, COMPILED, QUANTIZED)}
    assert set(rgb.values()) <= colours["latency.png"]
    assert {rgb[FLOAT], rgb[QUANTIZED]} <= colours["size.png"] & colours["ratios.png"]


def test_the_style_of_the_caller_neither_shows_nor_changes() -> None:
    plain = pictures(report())
    with matplotlib.rc_context({"text.color": "white", "axes.facecolor": "black", "font.size": 30.0}):
        before = dict(matplotlib.rcParams)
        assert pictures(report()) == plain
        assert dict(matplotlib.rcParams) == before


def test_the_module_imports_without_matplotlib_and_drawing_never_imports_pyplot() -> None:
    code = (
        "import sys; import quantexp.reports.plots as plots; assert 'matplotlib' not in sys.modules\n"
        "from tests.builders import report; plots.pictures(report()); assert 'matplotlib.pyplot' not in sys.modules"
    )
    path = [entry for entry in sys.path if entry]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"], check=True, timeout=120)


def test_a_lower_precision_that_is_as_fast_still_shows_the_margin_band() -> None:
    figure = ratios_figure(report(comparison=comparison(speedups=[speedup(1, 1.0)])))
    assert figure is not None
    low, high = figure.axes[0].get_xlim()
    assert low < 1 / 1.01 < 1.01 < high


def test_ratios_of_a_speedup_without_spread_are_drawn() -> None:
    one = dataclasses.replace(speedup(1, 2.0), low=2.0, high=2.0, per_placement=(2.0, 2.0))
    assert "ratios.png" in pictures(report(comparison=comparison(speedups=[one])))
