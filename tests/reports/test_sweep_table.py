from __future__ import annotations

import csv
import dataclasses
import io
import math

import pytest

from quantexp.reports.sweep_csv import full_csv, sweep_csv
from quantexp.reports.sweep_table import full_table, seeds_table, summary_table
from quantexp.reports.table import Table
from quantexp.results import Measured, NotFaster, Report, Speedup
from tests.builders import conditions, data, entry, latency, lone, measured, method, quality, report, speedup, sweep

COLUMNS = ("Task", "Quantization", "dtype", "Size (MB)", "Params", "MFLOPs", "Accuracy")
ERROR = "DataError: there is no mnist/MNIST/raw in /nowhere"


def model(precision: str, *, correct: int, megabytes: float, ms: dict[int, float]) -> Measured:
    """A model with round figures: the deviation is a tenth of the mean."""
    size = dataclasses.replace(measured().size, state_bytes=int(1e6 * megabytes))
    times = tuple(latency(at, mean, mean_ms=mean, std_ms=mean / 10) for at, mean in ms.items())
    return measured(precision, quality=quality(correct), size=size, latency=times)


def run(seed: int = 0, *, correct: int = 976, ms: float = 0.2, **changes: object) -> Report:
    """A qat run whose latency at batch 64 is ten times that at batch 1."""
    made = report(
        quant="qat",
        seed=seed,
        quantized=model("int8", correct=correct, megabytes=1.471, ms={1: ms, 64: 10 * ms}),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


FLOAT = lone(baseline=model("fp32", correct=980, megabytes=5.884, ms={1: 0.5, 64: 4.0}))
FAILED = entry(None, error=ERROR, quant="amp", precision="bf16", seed="1")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in table.rows]


def note(table: Table) -> str:
    return "\n".join(table.notes)


# The lab's table


def test_the_labs_table_has_its_columns_and_a_row_for_each_run() -> None:
    table = summary_table(sweep(FLOAT, run()))
    assert table.columns == (*COLUMNS, "Latency B1 (ms)", "Latency B64 (ms)")
    assert table.rows == (
        ("mnist", "none", "fp32", "5.88", "1,470,474", "2.94", "98.00 %", "0.500 ± 0.050", "4.000 ± 0.400"),
        (
            "mnist",
            "qat",
            "int8",
            "1.47",
            "1,470,474",
            "2.94",
            "97.60 %",
            "0.200 ± 0.020, 2.44x",
            "2.000 ± 0.200, 4.11x",
        ),
    )


def test_runs_that_differ_in_seed_alone_are_folded_into_mean_and_deviation() -> None:
    ones = [run(0, correct=970, ms=0.1), run(1, correct=980, ms=0.2), run(2, correct=990, ms=0.6)]
    table = summary_table(sweep(FLOAT, *ones))
    assert column(table, "Accuracy") == ["98.00 %", "98.00 ± 1.00 %"]
    deviation = "0.265"  # sqrt((0.04 + 0.01 + 0.09) / 2)
    assert column(table, "Latency B1 (ms)") == ["0.500 ± 0.050", f"0.300 ± {deviation}, 2.44x"]
    assert column(table, "Seeds") == ["1", "3"]
    assert "mean ± std over the seeds" in note(table)
    assert "over the seeds" not in note(summary_table(sweep(FLOAT, ones[0])))


def test_two_machines_never_share_a_column() -> None:
    there = run(host="there", machine="Xeon, 8 cores, torch 2.15.0", correct=970, ms=0.1)
    table = summary_table(sweep(run(), there))
    assert table.columns[6:] == (
        "Accuracy, here",
        "Accuracy, there",
        "Latency B1 (ms), here",
        "Latency B64 (ms), here",
        "Latency B1 (ms), there",
        "Latency B64 (ms), there",
    )
    assert [row[6:] for row in table.rows] == [
        (
            "97.60 %",
            "97.00 %",
            *("0.200 ± 0.020, 2.44x", "2.000 ± 0.200, 4.11x", "0.100 ± 0.010, 2.44x", "1.000 ± 0.100, 4.11x"),
        )
    ]
    assert "Measured on here: EPYC" in note(table)
    assert "Measured on there: Xeon, 8 cores" in note(table)


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"benchmark": "lab"}, ("paired", "lab")), ({"threads": 2}, ("1 thread", "2 threads"))],
    ids=["protocols", "threads"],
)
def test_protocols_and_threads_stand_side_by_side(changes: dict[str, object], names: tuple[str, str]) -> None:
    table = summary_table(sweep(run(), run(**changes)))
    assert len(table.rows) == 1
    assert table.columns[6] == "Accuracy"
    assert table.columns[7::2] == tuple(f"Latency B1 (ms), {name}" for name in names)
    assert f"2 setups ({names[0]}; {names[1]})" in note(table)


def test_two_data_sets_are_two_rows_that_say_so() -> None:
    table = summary_table(sweep(run(), run(data=data("sample"))))
    assert column(table, "Task") == ["mnist", "mnist (sample)"]
    assert "sample: the small data set" in note(table)
    other = run(data=dataclasses.replace(data(), fingerprint="abcdef01" * 8))
    table = summary_table(sweep(run(), other))
    assert column(table, "Settings") == ["data=ffffffff", "data=abcdef01"]
    assert "used different files" in note(table)


def test_a_setting_that_varies_stands_in_the_row() -> None:
    table = summary_table(sweep(entry(run(), model__hidden="[64]"), entry(run(), model__hidden="[256]")))
    assert column(table, "Settings") == ["hidden=[64]", "hidden=[256]"]


def test_a_batch_size_that_a_run_did_not_measure_is_left_blank() -> None:
    small = lone(baseline=model("fp32", correct=980, megabytes=1.0, ms={1: 1.0}))
    large = run(quantized=model("int8", correct=980, megabytes=1.0, ms={64: 64.0}))
    table = summary_table(sweep(small, large))
    assert [row[7:] for row in table.rows] == [("1.000 ± 0.100", ""), ("", "64.000 ± 6.400, 4.11x")]


def test_unstable_latencies_are_marked_and_the_mark_is_explained() -> None:
    shaky = run(conditions=(conditions(1), conditions(64, unstable=("it shook", "it rattled"))))
    table = summary_table(sweep(FLOAT, shaky))
    assert [["*" in cell for cell in row[7:]] for row in table.rows] == [[False, False], [False, True]]
    assert "unstable: something disturbed the measurement" in note(table)
    assert "unstable" not in note(summary_table(sweep(FLOAT, run())))


def test_a_failure_is_a_row_with_its_error() -> None:
    table = summary_table(sweep(run(), FAILED))
    assert table.rows[-1] == ("mnist", "amp", "bf16", *[""] * 6, ERROR)
    assert table.columns[-1] == "Failed"
    assert "1 of 2 combinations failed." in table.notes


def test_a_long_error_is_cut_in_the_table() -> None:
    (row,) = summary_table(sweep(entry(None, error="word\n" * 100))).rows
    assert len(row[-1]) == 100
    assert row[-1].endswith("word...") or row[-1].endswith("...")


def test_remaining_combinations_are_counted() -> None:
    assert "3 of 5 combinations remain; run the same command with sweep.name=night to resume" in note(
        summary_table(sweep(FLOAT, run(), left=3))
    )
    assert "1 of 3 combinations remains" in note(summary_table(sweep(FLOAT, run(), left=1)))
    assert "remain" not in note(summary_table(sweep(FLOAT)))


def test_a_sweep_of_which_nothing_is_done_has_tables_all_the_same() -> None:
    for made in (sweep(left=2), sweep(FAILED)):
        assert "combinations" in note(summary_table(made))
        assert full_table(made).rows == summary_table(made).rows or made.failed
        assert seeds_table(made) is None


# The full table


def test_the_full_table_has_intervals_flips_and_verdicts_and_a_row_a_batch_size() -> None:
    one = Speedup(1, 2.5, 2.4, 2.6, 0.01)
    other = Speedup(64, 1.0, 0.99, 1.01, 0.01)
    made = method("qat", megabytes=1.471, speedups=[one, other], gained=2, lost=6, correct=974, p_value=0.289)
    table = full_table(sweep(made))
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert first["vs float"] == "-0.40 points: +2 / -6 examples"
    assert first["Verdict"] == "no significant difference, p = 0.289"
    assert first["Accuracy (%)"].startswith("97.40 [")
    assert (first["Batch"], first["Speedup"]) == ("1", "2.50x [2.40, 2.60] faster")
    assert (second["Task"], second["Accuracy (%)"], second["Batch"]) == ("", "", "64")
    assert second["Speedup"] == "1.00x [0.99, 1.01] undecided"


def test_notes_of_the_full_table_are_numbered_and_said_once() -> None:
    made = method("qat", conditions=tuple(conditions(size, unstable=("it shook",)) for size in (1, 64)))
    slow = dataclasses.replace(made.comparison, not_faster=(NotFaster(64, ("few products", "no VNNI")),))
    table = full_table(sweep(dataclasses.replace(made, comparison=slow)))
    assert column(table, "Notes") == ["[1]", "[1], [2]"]
    assert table.notes[-2:] == ("[1] unstable: it shook", "[2] not faster: few products; no VNNI")


def test_the_full_table_names_setup_seed_and_failure() -> None:
    table = full_table(sweep(run(), run(1, threads=2), FAILED))
    assert [text for text in column(table, "Setup") if text] == ["1 thread", "2 threads"]
    assert [text for text in column(table, "Seed") if text] == ["0", "1", "1"]
    assert column(table, "Failed")[-1] == ERROR


# Methods over seeds


def over_seeds(quant: str, corrects: list[int], ratios: list[float]) -> list[Report]:
    pairs = enumerate(zip(corrects, ratios, strict=True))
    return [method(quant, correct=correct, speedups=[speedup(1, ratio)], seed=seed) for seed, (correct, ratio) in pairs]


def test_methods_are_compared_seed_by_seed() -> None:
    static = over_seeds("static", [970, 980, 990], [2.0, 2.0, 2.0])
    qat = over_seeds("qat", [980, 990, 1000], [4.0, 4.0, 4.0])
    table = seeds_table(sweep(*static, *qat))
    assert table is not None
    assert column(table, "Compared") == [
        "static int8 vs none fp32",
        "qat int8 vs none fp32",
        "qat int8 vs static int8",
    ]
    assert column(table, "Accuracy")[-1] == "+1.00 points [+0.90, +1.10] over 3 seeds"
    assert column(table, "Verdict") == ["no significant difference", "no significant difference", "significant gain"]
    assert column(table, "Speedup B1") == [
        "2.00x [2.00, 2.00] faster",
        "4.00x [4.00, 4.00] faster",
        "2.00x [2.00, 2.00] faster",
    ]
    assert column(table, "Seeds") == ["3", "3", "3"]


def test_an_interval_over_seeds_is_students_over_logarithms() -> None:
    table = seeds_table(sweep(*over_seeds("static", [978, 978, 978], [1.0, math.e, math.e**2])))
    assert table is not None
    low, high = math.exp(1 - 4.30265 / math.sqrt(3)), math.exp(1 + 4.30265 / math.sqrt(3))
    assert column(table, "Speedup B1") == [f"2.72x [{low:.2f}, {high:.2f}] undecided"]
    assert column(table, "Accuracy") == ["+0.00 points [-0.10, +0.10] over 3 seeds"]
    assert column(table, "Verdict") == ["no significant difference"]


def test_only_seeds_that_both_methods_have_are_compared() -> None:
    qat = [one for one in over_seeds("qat", [970, 975, 980], [2.0, 2.0, 2.0]) if one.seed > 0]
    table = seeds_table(sweep(*over_seeds("static", [960, 970, 980], [2.0, 2.0, 2.0]), *qat))
    assert table is not None
    assert column(table, "Seeds")[-1] == "2"


def test_one_seed_has_no_table_over_seeds() -> None:
    assert seeds_table(sweep(FLOAT, run())) is None


def test_machines_are_not_compared_over_seeds() -> None:
    ones = over_seeds("static", [970, 980], [2.0, 2.0])
    there = [dataclasses.replace(one, host="there", machine="Xeon") for one in ones]
    table = seeds_table(sweep(*ones, *there))
    assert table is not None
    assert column(table, "Setup") == ["here", "there"]


# CSV


def test_csv_holds_plain_numbers() -> None:
    (row,) = rows_of(sweep_csv(sweep(run())))
    assert row == {
        "Task": "mnist",
        "Quantization": "qat",
        "dtype": "int8",
        "Size (MB)": "1.471",
        "Params": "1470474",
        "FLOPs": "2940928",
        "Accuracy": "0.976",
        "Latency B1 mean (ms)": "0.2",
        "Latency B1 std (ms)": "0.02",
        "Latency B64 mean (ms)": "2.0",
        "Latency B64 std (ms)": "0.2",
        "Seed": "0",
        "Benchmark": "paired",
        "Threads": "1",
        "Host": "here",
        "Machine": "EPYC, 2 cores (avx512_vnni), torch 2.15.0, Python 3.11.7",
    }


def test_csv_has_a_row_for_each_seed_and_a_column_for_each_setting_that_varies() -> None:
    made = sweep(entry(run(0), model__hidden="[64]"), entry(run(1), model__hidden="[256]"), FAILED)
    rows = rows_of(sweep_csv(made))
    assert [row["Seed"] for row in rows] == ["0", "1"]
    assert [row["model.hidden"] for row in rows] == ["[64]", "[256]"]


def test_csv_leaves_a_batch_size_blank_that_a_run_did_not_measure() -> None:
    small = lone(baseline=model("fp32", correct=980, megabytes=1.0, ms={1: 1.0}))
    first, second = rows_of(sweep_csv(sweep(small, run())))
    assert (first["Latency B64 mean (ms)"], second["Latency B64 mean (ms)"]) == ("", "2.0")


def test_csv_quotes_what_needs_it() -> None:
    (row,) = rows_of(sweep_csv(sweep(run(task='mine, "yours"'))))
    assert row["Task"] == 'mine, "yours"'


def test_the_full_csv_has_every_figure_under_its_public_name_and_failures_with_their_error() -> None:
    done, failed = rows_of(full_csv(sweep(method("static"), FAILED)))
    assert (done["accuracy"], done["speedup_b64"], done["flips_lost"], done["error"]) == ("0.976", "4.0", "4.0", "")
    assert (done["host"], done["protocol"], done["threads"]) == ("here", "paired", "1")
    assert (failed["quant"], failed["seed"], failed["accuracy"], failed["error"]) == ("amp", "1", "", ERROR)
