"""Runtimes: which one executed the networks, the float network in further ones, and sweeps over them."""

from __future__ import annotations

import dataclasses

from quantexp.analysis.recommendation import recommend
from quantexp.analysis.variants import networks
from quantexp.reports.cells import quality_text
from quantexp.reports.details import tables
from quantexp.reports.latency_plots import latency_figure
from quantexp.reports.networks import network_tables
from quantexp.reports.style import styled
from quantexp.reports.sweep_csv import full_csv
from quantexp.reports.sweep_groups import groups
from quantexp.reports.sweep_table import summary_table
from quantexp.reports.table import comparison_table
from quantexp.results import Report
from tests.builders import entry, lone, measured, method, other_float, other_quantized, report, speedup, sweep

OVER_EAGER = (speedup(1, 5.0), speedup(64, 9.0))
EAGER = other_float("eager", prepare_seconds=None, max_difference=None, quantized_speedups=OVER_EAGER)
COMPILED = report(
    runtime="compiled",
    baseline=measured(prepare_seconds=8.0, max_difference=1e-6),
    quantized=measured("int8", ms={1: 0.09, 64: 0.46}, prepare_seconds=9.5, max_difference=1e-6),
    others=(EAGER,),
)


def run(quant: str, runtime: str) -> Report:
    made = method(quant) if quant != "none" else lone()
    others = (EAGER,) if runtime != "eager" and quant != "none" else ()
    return dataclasses.replace(made, runtime=runtime, others=others)


BOTH = sweep(*(run(quant, runtime) for runtime in ("eager", "compiled") for quant in ("none", "static", "qat")))


def test_a_run_in_another_runtime_says_so_and_has_eager_execution_beside_it() -> None:
    table = comparison_table(COMPILED)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["Runtime"] == ("compiled", "compiled", "")
    assert rows["  eager B1"] == ("0.182 ± 0.007", "", "vs eager: 5.00x [4.97, 5.02] faster")
    assert rows["Preparation, compiled (s)"] == ("8.0", "9.5", "")
    assert "Preparation, eager (s)" not in rows
    assert any("forward pass in runtime compiled, mean" in note for note in table.notes)
    assert "Runtime" not in {row[0] for row in comparison_table(report()).rows}


def test_several_further_runtimes_have_their_rows_and_their_lines() -> None:
    made = report(others=(other_float("compiled"), other_float("onnxruntime", {1: 0.11, 64: 1.2})))
    names = [row[0] for row in comparison_table(made).rows]
    assert names[names.index("Latency B1 (ms)") :][:3] == ["Latency B1 (ms)", "  compiled B1", "  onnxruntime B1"]
    with styled():
        figure = latency_figure(made)
        assert figure is not None
        labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
        lines = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines if line.get_marker() in "os^D"}
    assert labels == ["fp32", "fp32 compiled", "fp32 onnxruntime", "static int8"]
    assert len(lines) == 4


def test_the_quantized_network_in_a_further_runtime_stands_beside_float_there() -> None:
    there = other_quantized("onnxruntime")
    made = report(others=(other_float("compiled"), other_float("onnxruntime")), others_quantized=(there,))
    rows = {row[0]: row[1:] for row in comparison_table(made).rows}
    assert rows["  onnxruntime B1"] == ("0.182 ± 0.007", "0.091 ± 0.004", "2.00x [1.99, 2.01] faster")
    assert rows["  compiled B1"][1:] == ("", "compiled vs eager: 1.20x [1.19, 1.21] faster")
    assert rows["Preparation, onnxruntime (s)"] == ("8.0", "9.0", "")
    assert rows["Accuracy in onnxruntime (%)"][:2] == ("", quality_text(there.measured.quality))
    with styled():
        figure = latency_figure(made)
        assert figure is not None
        labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["fp32", "fp32 compiled", "fp32 onnxruntime", "static int8 onnxruntime", "static int8"]


def test_an_accuracy_that_is_the_same_in_a_further_runtime_has_no_row() -> None:
    same = dataclasses.replace(other_quantized().measured, quality=report().result.quality)
    made = report(others=(other_float(),), others_quantized=(other_quantized(measured=same),))
    assert not [row for row in comparison_table(made).rows if row[0].startswith("Accuracy in")]


def test_the_details_have_the_quantized_network_in_a_further_runtime_as_a_model() -> None:
    made = report(others=(other_float(),), others_quantized=(other_quantized(),))
    found = {name: list(lines) for name, lines in tables(made).items()}
    for name in ("samples", "layers", "operators", "time"):
        assert "static int8 compiled" in {line[0] for line in found[name]}
    assert "static int8 compiled" not in {line[0] for line in found["confusion"]}


def test_a_sweep_over_runtimes_has_rows_and_networks_for_each() -> None:
    table = summary_table(BOTH)
    assert [row[:4] for row in table.rows] == [
        ("mnist", quant, precision, f"runtime={runtime}")
        for runtime in ("eager", "compiled")
        for quant, precision in (("none", "fp32"), ("static", "int8"), ("qat", "int8"))
    ]
    assert [(dict(one.settings)["runtime"], len(one.variants)) for one in networks(BOTH)] == [
        ("eager", 3),
        ("compiled", 3),
    ]
    assert [title for title, _ in network_tables(BOTH)] == ["mnist, runtime=eager", "mnist, runtime=compiled"]
    starts = [text.partition(":")[0] for text in recommend(BOTH).split("\n\n")]
    assert [start for start in starts if start != "mnist"] == ["mnist (runtime=eager)", "mnist (runtime=compiled)"]


def test_the_table_of_a_network_has_the_speedups_over_float_in_further_runtimes() -> None:
    (_, eager), (_, compiled) = network_tables(BOTH)
    assert not [name for name in eager.columns if name.startswith("Speedup over ")]
    at = compiled.columns.index("Speedup over eager float B64")
    assert [row[at] for row in compiled.rows] == ["", *["9.00x [8.96, 9.05] faster"] * 2]
    assert compiled.notes[-1].endswith("paired, runtime compiled, 1 thread.")


def test_a_sweep_in_one_runtime_names_it_in_notes_pictures_and_csv() -> None:
    made = sweep(run("static", "compiled"), run("qat", "compiled"))
    assert "Settings" not in summary_table(made).columns
    assert "forward pass in runtime compiled" in summary_table(made).notes[0]
    assert groups(made)[0].subtitle == "mnist; paired, compiled, 1 thread, here"
    header, *rows = (line.split(",") for line in full_csv(made).splitlines())
    assert {row[header.index("runtime") + 3] for row in rows} == {"compiled"}  # the machine holds commas


def test_records_from_before_runtimes_are_those_of_eager_execution() -> None:
    old = entry(method("static"))
    settings = {name: value for name, value in old.settings.items() if name != "runtime"}
    made = sweep(dataclasses.replace(old, settings=settings), run("static", "eager"), run("static", "compiled"))
    assert [row[3] for row in summary_table(made).rows] == ["runtime=eager", "runtime=compiled"]
