from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from quantexp.reports.layer_plots import layers_figure
from quantexp.reports.plots import pictures
from quantexp.results import LayerLoss, Report, parse_report
from quantexp.results.metrics import metrics
from tests.builders import comparison, layer_loss, lone, report, training


def losing(*layers: LayerLoss, **changes: Any) -> Report:
    """A run in which these layers lose something."""
    return report(comparison=comparison(layers=layers), **changes)


def texts(figure: Figure | None) -> list[str]:
    assert figure is not None
    figure.canvas.draw()
    found: Iterable[Any] = figure.findobj(Text)
    return [text.get_text() for text in found if text.get_text() and text.get_visible()]


MANY = tuple(
    layer_loss(f"encoder.blocks.{at}.attention.output.dense_{'long_' * (at % 9)}", clipped=at / 500) for at in range(50)
)


@pytest.mark.parametrize(
    "layers", [MANY[:1], MANY[:3], MANY, (layer_loss(clipped=1.0), layer_loss("$a_b\u4e00", clipped=None))], ids=len
)
def test_a_row_a_layer_stays_on_the_page_however_many_there_are(layers: tuple[LayerLoss, ...]) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(pictures(losing(*layers))["layers.png"])).convert("RGB"))
    assert all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    assert 0.02 < (pixels < 250).any(axis=2).mean() < 0.6
    assert pixels.shape[0] < 2500


def test_the_axes_say_what_they_show_and_layers_in_float_are_marked() -> None:
    kept = layer_loss("layers.2", precision="fp32", weight_sqnr_db=None, clipped=None)
    written = texts(layers_figure(losing(layer_loss(clipped=0.123), kept, layer_loss("layers.4", clipped=0.00002))))
    assert {"layers.0", "layers.2 (fp32)", "layers.4", "weight", "output", "clipped (%)"} <= set(written)
    assert {"12", "<0.01"} <= set(written)


def test_where_nothing_is_clipped_nothing_is_said_of_it() -> None:
    assert not any("clipped" in text for text in texts(layers_figure(losing(layer_loss(), layer_loss(clipped=None)))))


def test_a_method_that_trains_is_said_to_have_moved_the_model() -> None:
    said = ", after further training"
    assert any(said in text for text in texts(layers_figure(losing(layer_loss(), quantized_training=training()))))
    assert not any(said in text for text in texts(layers_figure(losing(layer_loss()))))


def test_without_layers_or_figures_there_is_no_picture() -> None:
    assert layers_figure(lone()) is None
    assert layers_figure(report()) is None
    assert layers_figure(losing(layer_loss(weight_sqnr_db=None, output_sqnr_db=None))) is None


def test_the_figures_of_each_layer_have_names_that_mlflow_takes() -> None:
    named = metrics(losing(layer_loss(clipped=0.25), layer_loss("blocks.a/b+c", clipped=None), layer_loss("")))
    found = {name: value for name, value in named.items() if name.startswith("layers/")}
    assert found == {
        "layers/layers.0/weight_sqnr_db": 42.5,
        "layers/layers.0/output_sqnr_db": 38.0,
        "layers/layers.0/clipped": 0.25,
        "layers/blocks.a_b_c/weight_sqnr_db": 42.5,
        "layers/blocks.a_b_c/output_sqnr_db": 38.0,
        "layers/network/weight_sqnr_db": 42.5,
        "layers/network/output_sqnr_db": 38.0,
        "layers/network/clipped": 0.0,
    }


def test_a_stored_report_keeps_its_layers_and_one_from_before_has_none() -> None:
    made = losing(layer_loss(), layer_loss("layers.2", clipped=None))
    assert parse_report(made.to_json().encode()) == made
    assert made.comparison is not None
    told = dataclasses.replace(made, comparison=dataclasses.replace(made.comparison, layers=()))
    before = told.to_json().replace('"layers": []', '"unused": []')
    assert before != told.to_json()
    assert parse_report(before.encode()) == told
