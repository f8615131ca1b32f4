from __future__ import annotations

import csv
import dataclasses
import io

from rich.console import Console

from quantexp.report.results import Accuracy, Comparison, Data, Evidence, Latency, Measured, Report, Speedup
from quantexp.report.table import Table, comparison_table, sweep_csv, sweep_table


def latency(batch_size: int, mean_ms: float) -> Latency:
    return Latency(batch_size, (mean_ms,), 1, 1, mean_ms, mean_ms, 0.25, mean_ms, mean_ms)


def measured(precision: str, *, correct: int, size_bytes: int, ms: dict[int, float], seconds: float | None) -> Measured:
    return Measured(
        precision=precision,
        accuracy=Accuracy(correct / 1000, correct / 1000 - 0.02, correct / 1000 + 0.01, correct, 1000),
        size_bytes=size_bytes,
        parameters=1_470_474,
        latency=tuple(latency(size, mean_ms) for size, mean_ms in ms.items()),
        train_seconds=seconds,
    )


REPORT = Report(
    task="mnist",
    model="mlp",
    quant="qat",
    precision="int8",
    data=Data("full", "data_dir /data", "f" * 64, 60_000, 512, 1000),
    seed=0,
    benchmark="paired",
    threads=1,
    baseline=measured("fp32", correct=980, size_bytes=5_884_000, ms={1: 0.5, 64: 4.0}, seconds=10.0),
    quantized=measured("int8", correct=976, size_bytes=1_471_000, ms={1: 0.2, 64: 2.0}, seconds=15.04),
    comparison=Comparison(
        accuracy_drop=0.004,
        flips_gained=2,
        flips_lost=6,
        compression=4.0,
        speedups=(Speedup(1, 2.5, 2.4, 2.6), Speedup(64, 2.0, None, None)),
        training_ratio=1.5,
    ),
    evidence=Evidence((), (), ()),
    calibration=None,
    calibration_seconds=None,
    float_training=None,
    quantized_training=None,
)
FLOAT = dataclasses.replace(REPORT, quant="none", precision="fp32", quantized=None, comparison=None)
SAMPLE = dataclasses.replace(REPORT, data=dataclasses.replace(REPORT.data, source="sample"))


def at_sizes(*sizes: int) -> Report:
    """The float model's report, measured at these batch sizes, a millisecond an example."""
    one = dataclasses.replace(FLOAT.baseline, latency=tuple(latency(size, float(size)) for size in sizes))
    return dataclasses.replace(FLOAT, baseline=one)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# One run


def test_one_run_shows_both_models_and_what_changed() -> None:
    table = comparison_table(REPORT)
    assert table.columns == ("mnist", "", "", "quantized against float")
    assert table.rows == (
        ("Quantization", "none", "qat", ""),
        ("dtype", "fp32", "int8", ""),
        ("Size (MB)", "5.88", "1.47", "4.00x smaller"),
        ("Params", "1,470,474", "1,470,474", ""),
        ("Accuracy (%)", "98.00 [96.00, 99.00]", "97.60 [95.60, 98.60]", "-0.40 points: 2 gained, 6 lost"),
        ("Latency B1 (ms)", "0.500 ± 0.250", "0.200 ± 0.250", "2.50x as fast [2.40, 2.60]"),
        ("Latency B64 (ms)", "4.000 ± 0.250", "2.000 ± 0.250", "2.00x as fast"),
        ("Training (s)", "10.0", "15.0", "1.50x the time"),
    )


def test_one_run_without_a_quantized_model_shows_the_float_model_alone() -> None:
    table = comparison_table(FLOAT)
    assert table.columns == ("mnist", "")
    assert {len(row) for row in table.rows} == {2}
    assert ("Accuracy (%)", "98.00 [96.00, 99.00]") in table.rows
    assert ("Quantization", "none") in table.rows


def test_no_change_of_the_accuracy_has_no_minus_sign() -> None:
    assert REPORT.comparison is not None
    comparison = dataclasses.replace(REPORT.comparison, accuracy_drop=0.0, flips_gained=3, flips_lost=3)
    changes = {row[0]: row[-1] for row in comparison_table(dataclasses.replace(REPORT, comparison=comparison)).rows}
    assert changes["Accuracy (%)"] == "+0.00 points: 3 gained, 3 lost"


def test_a_time_that_is_not_known_is_left_blank() -> None:
    assert REPORT.quantized is not None
    assert REPORT.comparison is not None
    untrained = dataclasses.replace(
        REPORT,
        quantized=dataclasses.replace(REPORT.quantized, train_seconds=None),
        comparison=dataclasses.replace(REPORT.comparison, training_ratio=None),
    )
    assert comparison_table(untrained).rows[-1] == ("Training (s)", "10.0", "", "")


# A sweep


def test_a_sweep_has_the_columns_of_the_lab_and_a_row_for_each_run() -> None:
    table = sweep_table([FLOAT, REPORT])
    assert table.columns == (
        *("Task", "Quantization", "dtype", "Size (MB)", "Params", "Accuracy"),
        *("Latency B1 (ms)", "Latency B64 (ms)"),
    )
    assert table.rows == (
        ("mnist", "none", "fp32", "5.88", "1,470,474", "98.00 %", "0.500 ± 0.250", "4.000 ± 0.250"),
        ("mnist", "qat", "int8", "1.47", "1,470,474", "97.60 %", "0.200 ± 0.250", "2.000 ± 0.250"),
    )


def test_a_sweep_names_the_seed_only_where_there_are_several() -> None:
    other = dataclasses.replace(REPORT, seed=7)
    assert "Seed" not in sweep_table([REPORT, FLOAT]).columns
    table = sweep_table([REPORT, other])
    assert table.columns[-1] == "Seed"
    assert [row[-1] for row in table.rows] == ["0", "7"]


def test_a_batch_size_that_a_run_did_not_measure_is_left_blank() -> None:
    table = sweep_table([at_sizes(1, 8), at_sizes(64, 8), at_sizes(64)])
    assert table.columns[6:] == ("Latency B1 (ms)", "Latency B8 (ms)", "Latency B64 (ms)")
    assert [row[6:] for row in table.rows] == [
        ("1.000 ± 0.250", "8.000 ± 0.250", ""),
        ("", "8.000 ± 0.250", "64.000 ± 0.250"),
        ("", "", "64.000 ± 0.250"),
    ]


# Sample data, mixed conditions


def test_rows_of_the_sample_data_are_labelled_and_the_note_says_what_they_are_worth() -> None:
    assert comparison_table(SAMPLE).columns[0] == "mnist (sample)"
    assert [row[0] for row in sweep_table([SAMPLE, REPORT]).rows] == ["mnist (sample)", "mnist"]
    assert [row["Task"] for row in rows_of(sweep_csv([SAMPLE, REPORT]))] == ["mnist (sample)", "mnist"]
    for table in (comparison_table(SAMPLE), sweep_table([REPORT, SAMPLE])):
        assert "sample: the small data set in the package" in table.note
    assert "sample" not in sweep_table([REPORT, FLOAT]).note


def test_the_note_names_the_protocol_and_the_threads() -> None:
    assert "(paired: over timed blocks of calls), CPU threads: 1." in comparison_table(REPORT).note
    lab = dataclasses.replace(REPORT, benchmark="lab", threads=4)
    assert "(lab: over single calls), CPU threads: 4." in comparison_table(lab).note


def test_the_note_names_every_protocol_and_every_number_of_threads_of_a_sweep() -> None:
    lab = dataclasses.replace(REPORT, benchmark="lab", threads=10)
    several = [REPORT, lab, dataclasses.replace(REPORT, threads=2)]
    note = sweep_table(several).note
    assert "(lab: over single calls; paired: over timed blocks of calls), CPU threads: 1, 2, 10." in note


def test_the_note_says_when_the_test_split_was_calibrated_on() -> None:
    tested = dataclasses.replace(REPORT, calibration="test")
    assert "Calibrated on the test split" in comparison_table(tested).note
    assert "Calibrated on the test split" in sweep_table([REPORT, tested]).note
    assert "Calibrated" not in comparison_table(dataclasses.replace(REPORT, calibration="train")).note


# Markdown, CSV, the terminal


def test_markdown_is_a_table_with_a_rule_and_the_note_below() -> None:
    lines = sweep_table([REPORT]).markdown().splitlines()
    assert lines[0].startswith("| Task | Quantization | dtype | Size (MB) |")
    assert lines[1] == "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2].startswith("| mnist | qat | int8 | 1.47 |")
    assert lines[3] == ""
    assert lines[4].startswith("Latency: forward pass")


def test_pipes_and_line_breaks_do_not_break_a_row_of_markdown() -> None:
    table = Table(("Task", "Accuracy"), (("mine|yours", "two\nlines"),), "note")
    row = table.markdown().splitlines()[2]
    assert row == "| mine\\|yours | two lines |"


def test_csv_holds_plain_numbers() -> None:
    (row,) = rows_of(sweep_csv([REPORT]))
    assert row == {
        "Task": "mnist",
        "Quantization": "qat",
        "dtype": "int8",
        "Size (MB)": "1.471",
        "Params": "1470474",
        "Accuracy": "0.976",
        "Latency B1 mean (ms)": "0.2",
        "Latency B1 std (ms)": "0.25",
        "Latency B64 mean (ms)": "2.0",
        "Latency B64 std (ms)": "0.25",
        "Seed": "0",
        "Benchmark": "paired",
        "Threads": "1",
    }


def test_csv_leaves_a_batch_size_blank_that_a_run_did_not_measure() -> None:
    small, large = rows_of(sweep_csv([at_sizes(1), at_sizes(64)]))
    columns = ["Latency B1 mean (ms)", "Latency B1 std (ms)", "Latency B64 mean (ms)", "Latency B64 std (ms)"]
    assert [small[name] for name in columns] == ["1.0", "0.25", "", ""]
    assert [large[name] for name in columns] == ["", "", "64.0", "0.25"]
    assert (large["Seed"], large["Benchmark"], large["Threads"]) == ("0", "paired", "1")


def test_csv_quotes_what_needs_it() -> None:
    odd = dataclasses.replace(REPORT, task='mine, "yours"')
    (row,) = rows_of(sweep_csv([odd]))
    assert row["Task"] == 'mine, "yours"'


def test_the_terminal_shows_every_cell_and_takes_none_for_markup() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(comparison_table(dataclasses.replace(REPORT, task="[red]mine")).rich())
    shown = console.export_text()
    assert "[red]mine" in shown
    for cell in (cell for row in comparison_table(REPORT).rows for cell in row):
        assert cell in shown
    assert "Latency: forward pass" in shown
