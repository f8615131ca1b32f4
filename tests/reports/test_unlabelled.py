"""Runs on random inputs without labels: closeness to float in place of accuracy, which stands nowhere."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import pytest
from matplotlib.text import Text

from quantexp.reports import details, plots
from quantexp.reports.networks import network_tables
from quantexp.reports.page import write
from quantexp.reports.repeat import side_by_side
from quantexp.reports.style import styled
from quantexp.reports.sweep_csv import full_csv, sweep_csv
from quantexp.reports.sweep_plots import figures
from quantexp.reports.sweep_table import full_table, seeds_table, summary_table
from quantexp.reports.table import Table, comparison_table
from quantexp.results import Report
from quantexp.results.sweep import SweepResult
from tests.builders import lone, method, report, speedup, sweep, unlabelled, without_labels


def closeness(quant: str, agreement: float, sqnr_db: float | None, *, seed: int = 0, ratio: float = 2.0) -> Report:
    """A run without labels whose outputs are so close to float's."""
    made = method(quant, seed=seed, speedups=[speedup(1, ratio), speedup(64, 2 * ratio)])
    assert made.comparison is not None
    compared = dataclasses.replace(made.comparison, agreement=agreement, output_sqnr_db=sqnr_db)
    return without_labels(dataclasses.replace(made, comparison=compared))


STATIC, DYNAMIC = closeness("static", 0.99, 32.1), closeness("dynamic", 0.995, 38.4, ratio=1.5)
ALONE = sweep(without_labels(lone()), STATIC, DYNAMIC)
MIXED = sweep(method("static"), method("qat"), STATIC, DYNAMIC)


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in table.rows]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# One run


def test_a_run_says_how_close_its_outputs_are_and_what_its_data_are() -> None:
    table = comparison_table(unlabelled())
    assert table.columns[0] == "mnist (synthetic), mlp"
    assert ("Agreement (%)", "", "99.00", "") in table.rows
    assert ("Output SQNR (dB)", "", "30.0", "") in table.rows
    assert not {"Accuracy (%)", "Training (s)"} & set(column(table, table.columns[0]))
    assert "synthetic: random inputs without labels" in " ".join(table.notes)
    assert "McNemar" not in " ".join(table.notes)


def test_a_float_network_alone_is_compared_with_nothing() -> None:
    names = column(comparison_table(without_labels(lone())), "mnist (synthetic), mlp")
    assert not [name for name in names if "Agreement" in name or "SQNR" in name or "Accuracy" in name]


def test_the_longer_tables_have_neither_confusion_nor_classes() -> None:
    assert list(details.tables(unlabelled())) == ["samples", "layers", "operators", "time"]


def test_its_pictures_say_that_the_data_are_synthetic() -> None:
    with styled():
        shown = plots.figures(unlabelled())
    assert list(shown) == ["latency.png", "ratios.png", "size.png", "time.png"]
    for figure in shown.values():
        assert figure.texts[1].get_text().startswith("mnist (synthetic), mlp: ")


def test_it_is_reproduced_if_agreement_and_sqnr_are_the_same() -> None:
    table, same = side_by_side(STATIC, STATIC, elsewhere=False)
    assert same
    assert ("Agreement", "0.990000", "0.990000", "equal") in table.rows
    assert ("Output SQNR (dB)", "32.100", "32.100", "equal") in table.rows
    table, same = side_by_side(STATIC, closeness("static", 0.99, 32.2), elsewhere=False)
    assert (same, table.notes) == (False, ("Not reproduced: Output SQNR (dB).",))


# A sweep


def test_a_sweep_without_labels_has_agreement_and_sqnr_where_accuracy_would_stand() -> None:
    table = summary_table(ALONE)
    assert set(column(table, "Task")) == {"mnist (synthetic)"}
    assert column(table, "Agreement (%)") == ["", "99.00", "99.50"]
    assert column(table, "SQNR (dB)") == ["", "32.1", "38.4"]
    full = full_table(ALONE)
    assert [cell for cell in column(full, "Agreement (%)") if cell] == ["99.00", "99.50"]
    ((title, network),) = network_tables(ALONE)
    assert title == "mnist (synthetic)"
    assert column(network, "SQNR (dB)") == ["", "32.1", "38.4"]


def test_over_seeds_agreement_is_folded_and_methods_are_compared_by_speed_alone() -> None:
    runs = [closeness("static", 0.98 + seed / 100, 30.0 + seed, seed=seed) for seed in range(3)]
    made = sweep(*runs, *(closeness("dynamic", 1.0, None, seed=seed, ratio=1.5) for seed in range(3)))
    table = summary_table(made)
    assert column(table, "Agreement (%)") == ["99.00 ± 1.00", "100.00 ± 0.00"]
    assert column(table, "SQNR (dB)") == ["31.0 ± 1.0", ""]
    assert len(table.rows) == 2, "other random inputs for each seed are no other data"
    seeds = seeds_table(made)
    assert seeds is not None
    assert column(seeds, "Compared")[-1] == "dynamic int8 vs static int8"
    assert not {"Accuracy", "Verdict"} & set(seeds.columns)


@pytest.mark.parametrize("made", [ALONE, sweep(without_labels(lone()))], ids=["several", "float alone"])
def test_a_sweep_without_labels_speaks_of_accuracy_only_to_say_that_there_is_none(
    made: SweepResult, tmp_path: Path
) -> None:
    page = write(made, tmp_path)
    for path in (page, tmp_path / "report.md", tmp_path / "full.md", tmp_path / "table.md", tmp_path / "table.csv"):
        text = path.read_text(encoding="utf-8").lower()
        for known in ("there is no accuracy", "the accuracy is unknown", "the accuracy on labelled data"):
            text = text.replace(known, "")
        assert "accuracy" not in text, path.name
    assert "accuracy" not in (tmp_path / "full.csv").read_text(encoding="utf-8").replace("verdict_accuracy", "accuracy")


def test_a_sweep_that_mixes_labelled_and_unlabelled_runs_has_the_columns_of_both() -> None:
    table = summary_table(MIXED)
    assert column(table, "Task") == ["mnist", "mnist", "mnist (synthetic)", "mnist (synthetic)"]
    assert column(table, "Accuracy") == ["97.60 %", "97.60 %", "", ""]
    assert all(column(table, "Agreement (%)"))
    assert [row["Accuracy"] for row in rows_of(sweep_csv(MIXED))] == ["0.976", "0.976", "", ""]
    assert [row["Agreement"] for row in rows_of(sweep_csv(MIXED))] == ["0.99", "0.99", "0.99", "0.995"]
    assert [row["verdict_accuracy"] == "" for row in rows_of(full_csv(MIXED))] == [False, False, True, True]
    assert [title for title, _ in network_tables(MIXED)] == ["mnist", "mnist (synthetic)"]


def test_its_pictures_show_agreement_and_sqnr_where_accuracy_would_stand() -> None:
    with styled():
        shown = figures(MIXED)
        assert [name for name in shown if "synthetic" in name] == [
            "agreement-latency-mnist-synthetic.png",
            "size-agreement-mnist-synthetic.png",
            "batch-sizes-mnist-synthetic.png",
            "methods-mnist-synthetic.png",
        ]
        assert "accuracy-latency-mnist.png" in shown
        written = {
            name: {text.get_text() for text in figure.findobj(Text)}  # type: ignore[arg-type, attr-defined]
            for name, figure in shown.items()
        }
    assert "agreement with float (%)" in written["agreement-latency-mnist-synthetic.png"]
    assert {"agreement with float (%)", "output SQNR (dB)"} <= written["methods-mnist-synthetic.png"]
    assert not any("accuracy" in text.lower() for name in shown if "synthetic" in name for text in written[name])


def test_a_simulated_method_has_closeness_and_no_latency() -> None:
    simulated = report(quant="fake_quant", precision="simulated")
    assert simulated.quantized is not None
    untimed = dataclasses.replace(
        simulated,
        baseline=dataclasses.replace(simulated.baseline, latency=(), profiles=()),
        quantized=dataclasses.replace(simulated.quantized, latency=(), profiles=(), precision="simulated"),
        comparison=dataclasses.replace(simulated.comparison, speedups=()),  # type: ignore[type-var]
        conditions=(),
    )
    table = comparison_table(without_labels(untimed))
    assert ("Output SQNR (dB)", "", "30.0", "") in table.rows
    assert summary_table(sweep(without_labels(untimed))).rows[0][:3] == ("mnist (synthetic)", "fake_quant", "simulated")
