"""The tables, pictures and files of machines side by side."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from quantexp.analysis.machines import SideBySide, side_by_side
from quantexp.reports.machines_csv import experiments_csv, machines_csv
from quantexp.reports.machines_page import write_machines
from quantexp.reports.machines_plot import machine_figures, machine_pictures
from quantexp.reports.machines_table import differences_table, hardware_table, machines_table
from quantexp.reports.style import styled
from quantexp.reports.table import Table
from quantexp.results import Report
from quantexp.results.machines import MachineFacts, RecordedRun, RecordedRuns
from quantexp.results.sweep import UnreadableEntry
from quantexp.system.errors import QuantexpError
from tests.builders import conditions, lone, method, recorded, speedup, unlabelled

HERE, THERE = "/stores/here/mlflow.db", "/stores/there/mlflow.db"
STATIC = method("static")
FAST = method("static", speedups=[speedup(1, 3.0), speedup(64, 5.0)])


def at(host: str, made: Report = STATIC, **changes: Any) -> Report:
    """The same run on another host."""
    return dataclasses.replace(made, host=host, **changes)


def compared(*runs: RecordedRun, **further: Any) -> SideBySide:
    return side_by_side(RecordedRuns(tuple(dict.fromkeys(run.store for run in runs)), runs, **further))


def cells(table: Table, *names: str) -> list[tuple[str, ...]]:
    """The cells of some columns, row by row."""
    places = [table.columns.index(name) for name in names]
    return [tuple(row[place] for place in places) for row in table.rows]


BOTH = compared(recorded(at("node7")), recorded(at("node9", FAST), THERE))


def test_each_machine_has_its_row_for_each_batch_size() -> None:
    assert cells(machines_table(BOTH), "Method", "Batch", "Machine", "Speedup") == [
        ("static int8", "1", "node7", "2.00x [1.99, 2.01] faster"),
        ("", "", "node9", "3.00x [2.99, 3.02] faster"),
        ("", "64", "node7", "4.00x [3.98, 4.02] faster"),
        ("", "", "node9", "5.00x [4.98, 5.03] faster"),
    ]


def test_latencies_are_those_of_float_and_quantized_in_the_same_run() -> None:
    (first, *_) = cells(machines_table(BOTH), "Float (ms)", "Quantized (ms)")
    assert first == ("0.202 ± 0.008", "0.101 ± 0.004")
    alone = compared(recorded(at("node7", lone())), recorded(at("node9", lone()), THERE))
    assert cells(machines_table(alone), "Float (ms)")[0] == ("0.229 ± 0.009",)
    assert not {"Quantized (ms)", "Speedup"} & set(machines_table(alone).columns)


def test_an_unstable_latency_of_a_float_network_is_marked() -> None:
    shaky = lone(conditions=(conditions(1, unstable=("busy",)), conditions(64)))
    found = machines_table(compared(recorded(at("node7", shaky)), recorded(at("node9", lone()), THERE)))
    assert cells(found, "Float (ms)")[:2] == [("0.229 ± 0.009*",), ("0.229 ± 0.009",)]


def test_what_is_equal_on_all_machines_stands_once() -> None:
    assert cells(machines_table(BOTH), "Size (MB)") == [("1.50",), ("",), ("",), ("",)]
    worse = method("static", correct=900)
    found = machines_table(compared(recorded(at("node7")), recorded(at("node9", worse), THERE)))
    assert cells(found, "Accuracy (%)") == [("97.60",), ("90.00",), ("",), ("",)]


def test_an_experiment_that_not_all_machines_measured_names_those_that_did() -> None:
    found = machines_table(
        compared(recorded(at("node7", method("qat"))), *BOTH.machines[0].runs, *BOTH.machines[1].runs)
    )
    assert "Only on" not in machines_table(BOTH).columns
    assert cells(found, "Method", "Only on")[4:] == [("qat int8", "node7"), ("", "")]
    assert "Measured only on node7: 1 experiment (mnist qat int8)." in found.notes


def test_machines_without_a_common_experiment_are_said_to_have_none() -> None:
    found = machines_table(compared(recorded(at("node7")), recorded(at("node9", method("qat")), THERE)))
    assert any(note.startswith("NO EXPERIMENT WAS MEASURED ON TWO MACHINES") for note in found.notes)
    assert machine_figures(compared(recorded(at("node7")), recorded(at("node9", method("qat")), THERE))) == {}


def test_other_protocols_are_said_and_shown() -> None:
    lab = recorded(at("node9", threads=8, benchmark="lab"), THERE, benchmark__repeats="5")
    found = machines_table(compared(recorded(at("node7")), lab))
    (note,) = (note for note in found.notes if note.startswith("THE MACHINES MEASURED DIFFERENTLY"))
    assert "benchmark paired on node7, lab on node9; benchmark.threads 1 on node7, 8 on node9. Their" in note
    assert cells(found, "Setup")[:2] == [("paired, 1 thread",), ("lab, 8 threads",)]
    assert "Setup" not in machines_table(BOTH).columns
    assert not any("DIFFERENTLY" in note for note in machines_table(BOTH).notes)


def test_each_machine_is_described_with_its_store() -> None:
    line = f"node7: EPYC, 2 cores (avx2, avx512_vnni), torch 2.15.0, Python 3.11.7; 1 run in {HERE}."
    assert line in machines_table(BOTH).notes
    unknown = compared(recorded(at("node7"), facts=MachineFacts()), recorded(at("node9"), THERE))
    assert f"node7: {STATIC.machine}; 1 run in {HERE}." in machines_table(unknown).notes
    assert cells(hardware_table(BOTH), "Machine", "Store", "CPU", "Cores", "Instruction sets") == [
        ("node7", HERE, "EPYC", "2", "avx2, avx512_vnni"),
        ("node9", THERE, "EPYC", "2", "avx2, avx512_vnni"),
    ]


def test_versions_that_differ_are_listed_and_equal_ones_stand_together() -> None:
    newer = MachineFacts("EPYC", 2, instruction_sets=("avx2",), python="3.13.1", packages={"torch": "2.16.0"})
    found = compared(recorded(at("node7")), recorded(at("node9"), THERE, facts=newer))
    note = "Versions that differ: Python 3.11.7 on node7, 3.13.1 on node9; torch 2.15.0 on node7, 2.16.0 on node9."
    assert note in machines_table(found).notes
    table = differences_table(found)
    assert ("versions", "torch", "2.15.0 on node7, 2.16.0 on node9") in table.rows
    assert ("hardware", "instruction sets", "avx2, avx512_vnni on node7, avx2 on node9") in table.rows
    assert "torchao 0.18.0" in table.notes[-1]


def test_two_stores_with_one_host_name_are_told_apart_and_that_is_said() -> None:
    found = machines_table(compared(recorded(at("lab")), recorded(at("lab"), THERE)))
    assert [machine for (machine,) in cells(found, "Machine")][:2] == ["lab (here)", "lab (there)"]
    assert any(note.startswith("lab is the host name in 2 stores") for note in found.notes)


def test_seeds_are_listed_where_there_are_several() -> None:
    runs = [recorded(at("node7", seed=seed)) for seed in (0, 1)]
    found = machines_table(compared(*runs, recorded(at("node9", seed=1), THERE)))
    assert cells(found, "Seeds")[:2] == [("0, 1",), ("1",)]
    assert any(note.startswith("Seeds: machines ran an experiment with different seeds") for note in found.notes)
    assert "Seeds" not in machines_table(BOTH).columns


def test_without_labels_agreement_and_sqnr_stand_in_place_of_accuracy() -> None:
    found = machines_table(compared(recorded(at("node7", unlabelled())), recorded(at("node9", unlabelled()), THERE)))
    assert cells(found, "Agreement (%)", "SQNR (dB)")[0] == ("99.00", "30.0")
    assert "Accuracy (%)" not in found.columns


def test_what_could_not_be_read_failed_or_is_there_twice_is_said() -> None:
    lost = UnreadableEntry("1", "mnist-static", "report.json of run 1 cannot be read")
    runs = (recorded(at("node7")), recorded(at("node9"), THERE))
    notes = machines_table(compared(*runs, unreadable=(lost,), failed={HERE: 2, THERE: 0}, repeated=3)).notes
    assert f"2 failed runs in {HERE} are not compared." in notes
    assert any(note.startswith("3 runs are in several stores") for note in notes)
    assert any("such as mnist-static: report.json of run 1 cannot be read" in note for note in notes)


# -- pictures --------------------------------------------------------------------------------------------


def texts(made: SideBySide, file: str) -> list[Text]:
    """What stands in a picture."""
    with styled():
        figure: Figure = machine_figures(made)[file]
        FigureCanvasAgg(figure).draw()
        found: Any = figure.findobj(Text)
        return [text for text in found if text.get_text() and text.get_visible()]


def test_the_picture_names_machines_experiments_and_batch_sizes() -> None:
    shown = {text.get_text() for text in texts(BOTH, "speedup-mnist.png")}
    assert {
        "Speedup over float on each machine",
        "mnist; paired, 1 thread",
        "static int8",
        "batch 1",
        "batch 64",
    } <= shown
    assert {"node7: EPYC, 2 cores", "node9: EPYC, 2 cores", "2.00x", "3.00x", "4.00x", "5.00x"} <= shown
    (picture,) = machine_pictures(BOTH)
    image = Image.open(io.BytesIO(picture.png))
    assert (image.format, image.width) == ("PNG", 960)


def test_an_unstable_speedup_is_marked() -> None:
    shaky = dataclasses.replace(FAST, conditions=(conditions(1, unstable=("busy",)), conditions(64)))
    shown = {
        text.get_text()
        for text in texts(compared(recorded(at("a")), recorded(at("b", shaky), THERE)), "speedup-mnist.png")
    }
    assert {"2.00x", "3.00x*", "5.00x"} <= shown


def many() -> SideBySide:
    """Four machines that measured seven methods, of which the speedups are far apart."""
    runs = []
    for number in range(4):
        for bits in range(2, 9):
            ratios = [speedup(1, 0.2 * bits), speedup(8, 1 + number), speedup(64, 4.0)]
            made = at(f"a-node-with-a-very-long-name-{number}", method("fake_quant", f"int{bits}", speedups=ratios))
            runs.append(recorded(made, f"/stores/{number}/mlflow.db"))
    return compared(*runs)


def test_many_experiments_stand_in_several_pictures() -> None:
    assert list(machine_figures(many())) == ["speedup-mnist.png", "speedup-mnist-2.png", "speedup-mnist-3.png"]


@pytest.mark.parametrize("made", [BOTH, many()], ids=["two", "many"])
def test_no_text_lies_over_another(made: SideBySide) -> None:
    for file in machine_figures(made):
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts(made, file)]
        for place, (first, box) in enumerate(boxes):
            for second, other in boxes[place + 1 :]:
                assert not box.shrunk(0.9, 0.9).overlaps(other.shrunk(0.9, 0.9)), f"{first!r} lies over {second!r}"


# -- files -----------------------------------------------------------------------------------------------


def test_the_report_holds_all_tables_and_the_picture(tmp_path: Path) -> None:
    page = write_machines(BOTH, tmp_path / "compare").read_text()
    assert {path.name for path in (tmp_path / "compare").iterdir()} == {
        *("table.md", "table.csv", "machines.csv", "full.csv", "report.md", "report.html", "pictures")
    }
    assert (tmp_path / "compare/pictures/speedup-mnist.png").is_file()
    for text in ("<h2>Experiments</h2>", "<h2>Machines</h2>", "<h2>What differs</h2>", "data:image/png", "node9"):
        assert text in page
    report = (tmp_path / "compare/report.md").read_text()
    assert "](pictures/speedup-mnist.png)" in report
    assert report.startswith("# Machines side by side: node7 and node9\n")


def test_text_from_a_store_is_escaped(tmp_path: Path) -> None:
    runs = recorded(at("<script>1</script>")), recorded(at("[a](http://b)"), THERE)
    page = write_machines(compared(*runs), tmp_path).read_text()
    assert "<script" not in page
    assert "](http" not in (tmp_path / "report.md").read_text().replace("\\](http", "")


def test_a_folder_that_is_not_writable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QuantexpError, match=r"is not writable .*; choose another folder"):
        write_machines(BOTH, tmp_path / "file")


def test_the_figures_of_each_machine_are_rows_of_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(experiments_csv(BOTH))))
    assert [(row["batch_size"], row["machine"], row["store"]) for row in rows] == [
        *(("1", "node7", HERE), ("1", "node9", THERE), ("64", "node7", HERE), ("64", "node9", THERE))
    ]
    assert [float(row["speedup"]) for row in rows] == [2.0, 3.0, 4.0, 5.0]
    assert float(rows[0]["speedup_low"]) == pytest.approx(1.99, abs=1e-3)
    assert float(rows[0]["float_latency_ms_mean"]) == pytest.approx(0.202)
    assert (rows[0]["accuracy"], rows[0]["verdict"]) == ("0.976", "faster")
    facts = {row["property"]: row for row in csv.DictReader(io.StringIO(machines_csv(BOTH)))}
    assert (facts["cores"]["node7"], facts["cores"]["differs"]) == ("2", "False")
    assert facts["store"]["node9"] == THERE
