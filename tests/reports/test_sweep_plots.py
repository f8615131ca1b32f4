from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from quantexp.analysis.pareto import pareto_front
from quantexp.reports.style import styled
from quantexp.reports.sweep_plots import drawn, figures, groups, pictures
from quantexp.results.sweep import SweepResult
from tests.builders import data, entry, lone, method, speedup, sweep

STATIC = method("static")
SWEEP = sweep(lone(), STATIC, method("qat"), method("amp", "bf16", megabytes=5.9))
ALL = ["accuracy-latency-mnist.png", "size-accuracy-mnist.png", "batch-sizes-mnist.png", "methods-mnist.png"]


def network(width: int, **changes: Any) -> Any:
    made = method("static", flops=1000 * width, **changes)
    return entry(made, model__hidden=f"[{width}]")


def texts(made: SweepResult, file: str) -> list[str]:
    with styled():
        figure: Figure = figures(made)[file]
        figure.canvas.draw()
        found: Any = figure.findobj(Text)
        return [text.get_text() for text in found if text.get_text() and text.get_visible()]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 1), (2, 2), (3, 3)], [0, 1, 2]),
        ([(1, 3), (2, 2), (3, 1)], [0]),
        ([(2, 5), (1, 1), (3, 4), (4, 6), (1, 2)], [4, 0, 3]),
        ([(1, 1), (1, 1)], [0]),
        ([(1, 1), (2, 1)], [0]),
        ([], []),
    ],
    ids=["all", "one beats all", "some", "equal", "equal gain", "none"],
)
def test_the_pareto_front_holds_what_nothing_beats(points: list[tuple[float, float]], front: list[int]) -> None:
    assert pareto_front(points) == front


def test_a_sweep_has_a_picture_for_each_question() -> None:
    made = pictures(SWEEP)
    assert list(made) == ALL
    for picture in made.values():
        image = Image.open(io.BytesIO(picture))
        assert (image.format, image.width) == ("PNG", 960)
        assert len(set(image.convert("L").tobytes())) > 20


def test_flops_are_drawn_only_where_they_vary_within_a_task() -> None:
    varied = sweep(*(network(width) for width in (64, 256)))
    assert {"flops-mnist.png", "flops-mnist-2.png"} <= set(figures(varied))  # the smallest batch and the largest
    unknown = entry(method("static", flops=None), model__hidden="[512]")
    assert {"flops-mnist.png"} <= set(figures(sweep(network(64), network(256), unknown)))
    assert not [name for name in figures(sweep(network(64), unknown)) if name.startswith("flops")]
    two_tasks = sweep(STATIC, dataclasses.replace(STATIC, task="sst2", flops=7))
    assert not [name for name in figures(two_tasks) if name.startswith("flops")]


def test_float_networks_alone_are_drawn_over_their_flops_without_a_speedup() -> None:
    alone = sweep(*(entry(lone(flops=1000 * width), model__hidden=f"[{width}]") for width in (64, 256)))
    shown = texts(alone, "flops-mnist.png")
    assert {"MFLOPs per example", "accuracy (%)", "latency (ms)"} <= set(shown)
    with styled():
        assert [axes.get_visible() for axes in figures(alone)["flops-mnist.png"].axes] == [True, True, True, False]
        both = figures(sweep(*(network(width) for width in (64, 256))))["flops-mnist.png"]
    assert all(axes.get_visible() for axes in both.axes)


def test_each_picture_says_what_was_measured_and_how() -> None:
    for file in ALL:
        assert "mnist; paired, 1 thread, here" in texts(SWEEP, file)
    assert {"latency at batch 1 (ms)", "latency at batch 64 (ms)"} <= set(texts(SWEEP, ALL[0]))
    assert {"none fp32", "static int8", "qat int8", "amp bf16"} <= set(texts(SWEEP, ALL[0]))


def test_two_setups_never_share_a_picture() -> None:
    there = dataclasses.replace(STATIC, host="there", machine="Xeon")
    made = sweep(STATIC, there)
    assert len(groups(made)) == 2
    assert "mnist; paired, 1 thread, here" in texts(made, "accuracy-latency-mnist.png")
    assert "mnist; paired, 1 thread, there" in texts(made, "accuracy-latency-mnist-2.png")


def test_two_protocols_on_one_machine_share_the_picture_of_size_and_accuracy() -> None:
    made = figures(sweep(STATIC, dataclasses.replace(STATIC, benchmark="lab")))
    assert "accuracy-latency-mnist-2.png" in made
    assert "size-accuracy-mnist-2.png" not in made


def test_two_machines_keep_their_order_in_every_picture() -> None:
    made = sweep(STATIC, dataclasses.replace(STATIC, host="there", machine="Xeon"))
    assert "mnist; paired, 1 thread, here" in texts(made, "size-accuracy-mnist.png")
    assert "mnist; paired, 1 thread, there" in texts(made, "size-accuracy-mnist-2.png")


def test_networks_are_numbered_and_the_key_says_which_is_which() -> None:
    shown = texts(sweep(*(network(width) for width in (64, 256))), "accuracy-latency-mnist.png")
    assert {"1: hidden=[64]", "2: hidden=[256]", "1", "2"} <= set(shown)
    assert "1" not in texts(sweep(STATIC), "size-accuracy-mnist.png")


def test_many_networks_stand_in_several_pictures_of_bars() -> None:
    made = figures(sweep(*(network(16 * width) for width in range(1, 13))))  # two rows each, twelve a picture
    assert [name for name in made if name.startswith("methods")] == [
        "methods-mnist.png",
        "methods-mnist-2.png",
    ]
    assert not [name for name in made if name.startswith("batch-sizes")]


def test_one_batch_size_needs_no_picture_over_batch_sizes() -> None:
    made = figures(sweep(method("static", speedups=[speedup(1, 2.0)])))
    assert list(made) == ["accuracy-latency-mnist.png", "size-accuracy-mnist.png", "methods-mnist.png"]


def test_a_change_of_accuracy_is_bold_only_if_it_is_significant() -> None:
    told = method("amp", "bf16", correct=958, gained=3, lost=23, p_value=0.00009)
    with styled():
        figure = figures(sweep(STATIC, told))["methods-mnist.png"]
        found: Any = figure.findobj(Text)
        weights = {text.get_text(): text.get_weight() for text in found}
    assert (weights["-0.20"], weights["-2.00"]) == ("normal", "bold")


def test_seeds_are_drawn_as_one_point_and_the_whiskers_say_so() -> None:
    made = sweep(*(method("static", seed=seed, correct=970 + seed) for seed in range(3)))
    assert "line and outlined markers: Pareto front; whiskers: ± std over 3 seeds" in texts(
        made, "size-accuracy-mnist.png"
    )


def test_a_protocol_without_intervals_is_drawn_without_them() -> None:
    ones = [speedup(1, 2.0, placements=1), speedup(64, 4.0, placements=1)]
    assert list(pictures(sweep(method("static", speedups=ones, benchmark="lab")))) == ALL


def test_a_sweep_of_which_nothing_can_be_compared_has_no_pictures() -> None:
    assert pictures(sweep(lone())) == {}
    assert pictures(sweep(entry(None, error="no"), left=3)) == {}


def test_names_cannot_lead_out_of_the_folder_and_are_drawn_as_they_are() -> None:
    odd = dataclasses.replace(STATIC, task="../../x $a_b$ \u4e2d <script>", data=data("sample"))
    made = drawn(sweep(odd))
    assert all(set(one.file) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") and ".." not in one.file for one in made)
    assert made[0].caption.startswith("../../x $a_b$ ? <script> (sample); paired")


def test_matplotlib_is_imported_when_something_is_drawn() -> None:
    code = "import sys, quantexp.reports.page; assert not {'matplotlib', 'torch', 'mlflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Hundreds of runs


def many(count: int) -> SweepResult:
    return sweep(*(network(width, correct=900 + width % 90) for width in range(1, count + 1)))


def test_of_hundreds_of_networks_few_have_bars_and_the_picture_says_how_many() -> None:
    made = figures(many(200))
    bars = [name for name in made if name.startswith("methods")]
    assert 4 <= len(bars) <= 5
    assert len(made) < 12
    shown = " ".join(texts(many(200), bars[0]))
    assert "; 48 of 400, those on a Pareto front first" in shown


def test_hundreds_of_networks_have_points_without_numbers() -> None:
    shown = texts(many(200), "accuracy-latency-mnist.png")
    assert "1: hidden=[1]" not in shown
    assert any("; 200 networks" in text for text in shown)


def test_of_many_methods_the_legend_names_the_kinds() -> None:
    ones = [entry(method("static", correct=900 + number), quant__exclude=f"[{number}]") for number in range(30)]
    shown = texts(sweep(*ones), "accuracy-latency-mnist.png")
    assert {"static", "none"} <= set(shown)
    assert not [text for text in shown if "exclude" in text]


def test_every_run_is_a_point_however_many_there_are() -> None:
    with styled():
        left, right = figures(many(200))["accuracy-latency-mnist.png"].axes
        for axes in (left, right):
            marked = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
            assert sum(len(line.get_xdata()) for line in marked) == 2 * 200  # type: ignore[arg-type]
