"""Energy and FLOPs in tables: where they were measured or counted, and else a reason."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from quantexp.reports.details import tables
from quantexp.reports.networks import network_tables
from quantexp.reports.page import SUMMARY, html
from quantexp.reports.repeat import side_by_side
from quantexp.reports.sweep_csv import full_csv, sweep_csv
from quantexp.reports.sweep_table import full_table, summary_table
from quantexp.reports.table import Table, comparison_table
from quantexp.results import parse_report
from quantexp.results.metrics import metrics
from quantexp.results.text import megaflops_text, significant_text
from tests.builders import conditions, lone, method, other_float, report, sweep, with_energy

NO_COUNTER = "/sys/class/powercap has no energy counter"
RUN = with_energy(report())
WITHOUT = report(conditions=tuple(conditions(size, no_energy=NO_COUNTER) for size in (1, 64)))


def row(table: Table, name: str) -> tuple[str, ...]:
    (found,) = (cells for cells in table.rows if cells[0] == name)
    return found


def column(table: Table, name: str) -> list[str]:
    return [cells[table.columns.index(name)] for cells in table.rows]


def note(table: Table) -> str:
    return "\n".join(table.notes)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Figures as text


@pytest.mark.parametrize(
    ("flops", "text"),
    [(2_940_928, "2.94"), (833_040, "0.833"), (3_643_000_000, "3,643"), (60_840_000, "60.8"), (800, "0.000800")],
)
def test_flops_are_given_in_millions_with_three_digits(flops: int, text: str) -> None:
    assert megaflops_text(flops) == text


def test_flops_that_are_not_known_are_called_so_and_none_are_0() -> None:
    assert megaflops_text(None) == "unknown"
    assert megaflops_text(0) == "0"


def test_an_interval_has_the_decimals_of_its_value() -> None:
    assert significant_text(1.3, 1.28412, 1.32) == "1.30 [1.28, 1.32]"
    assert significant_text(12345.6, 999.4, 20000) == "12,346 [999, 20,000]"


# One run


def test_a_run_shows_its_flops_for_both_networks() -> None:
    assert row(comparison_table(report()), "MFLOPs") == ("MFLOPs", "2.94", "2.94", "")
    assert row(comparison_table(lone()), "MFLOPs") == ("MFLOPs", "2.94")
    assert "MFLOPs: of the float network for one example, in millions" in note(comparison_table(report()))


def test_flops_that_cannot_be_counted_are_unknown_with_the_reason() -> None:
    table = comparison_table(report(flops=None))
    assert row(table, "MFLOPs") == ("MFLOPs", "unknown", "unknown", "")
    assert "unknown: the network has operators that the account cannot count." in note(table)
    assert "unknown" not in note(comparison_table(report()))


def test_a_run_shows_energy_for_one_example_with_its_interval_and_how_much_less_it_is() -> None:
    table = comparison_table(RUN)
    assert row(table, "Energy B1 (mJ)") == (
        "Energy B1 (mJ)",
        "4.00 [3.92, 4.08]",
        "2.00 [1.96, 2.04]",
        "2.00x [1.90, 2.10] less",
    )
    assert row(table, "Energy B64 (mJ)")[1] == "0.500 [0.490, 0.510]"
    assert "Energy: of all CPU packages for one example, with what other processes use" in note(table)


def test_more_energy_is_called_more() -> None:
    assert row(comparison_table(with_energy(report(), ratio=0.5)), "Energy B1 (mJ)")[-1] == "0.50x [0.47, 0.53] more"


def test_the_float_network_in_a_further_runtime_has_its_energy_too() -> None:
    other = other_float()
    latency = tuple(
        dataclasses.replace(timed, energy=known.energy)
        for timed, known in zip(other.latency, RUN.baseline.latency, strict=True)
    )
    made = dataclasses.replace(RUN, others=(dataclasses.replace(other, latency=latency),))
    names = [cells[0] for cells in comparison_table(made).rows]
    assert names[names.index("Energy B1 (mJ)") + 1] == "  compiled B1 (mJ)"
    assert metrics(made)["runtime/compiled/float/energy_b1_j"] == 0.004


def test_without_energy_a_run_has_neither_row_nor_note() -> None:
    table = comparison_table(WITHOUT)
    assert not [cells for cells in table.rows if "Energy" in cells[0]]
    assert "nergy" not in note(table)
    assert "energy" not in tables(WITHOUT)


def test_the_placements_of_an_energy_are_lines_of_a_table() -> None:
    header, *lines = tables(RUN)["energy"]
    assert header == ("model", "batch_size", "placement", "joules_per_example")
    assert lines[0] == ("float", 1, 0, 0.004)
    assert len(lines) == 2 * 2 * 10


def test_a_report_with_energy_is_read_back_and_one_without_says_why() -> None:
    assert parse_report(RUN.to_json().encode()) == RUN
    assert RUN.no_energy == ""
    assert WITHOUT.no_energy == NO_COUNTER
    assert report().no_energy == "recorded before energy was measured"


def test_the_metrics_have_joules_for_one_example_of_both_networks_and_their_ratio() -> None:
    found = metrics(RUN)
    assert [found[f"energy_b1_j{end}"] for end in ("", "_low", "_high")] == pytest.approx([0.002, 0.00196, 0.00204])
    assert found["float/energy_b64_j"] == pytest.approx(0.0005)
    assert [found[f"energy_ratio_b64{end}"] for end in ("", "_low", "_high")] == pytest.approx([2.0, 1.9, 2.1])


# A sweep


def test_the_tables_of_a_sweep_have_flops_and_energy() -> None:
    made = sweep(with_energy(lone()), RUN)
    summary, full = summary_table(made), full_table(made)
    assert column(summary, "MFLOPs") == ["2.94", "2.94"]
    assert column(summary, "Energy B1 (mJ)") == ["4.00", "2.00, 2.00x"]
    assert column(full, "MFLOPs") == ["2.94", "", "2.94", ""]
    assert column(full, "Energy (mJ)")[2:] == ["2.00 [1.96, 2.04]", "0.250 [0.245, 0.255]"]
    assert column(full, "Energy ratio")[2:] == ["2.00x [1.90, 2.10] less"] * 2
    assert "not measured" not in note(summary)


def test_energy_over_seeds_is_mean_and_deviation() -> None:
    made = sweep(*(dataclasses.replace(with_energy(report(), 0.004 + 0.002 * seed), seed=seed) for seed in range(3)))
    assert column(summary_table(made), "Energy B1 (mJ)") == ["3.00 ± 1.00, 2.00x"]


def test_an_empty_cell_of_energy_has_a_reason_and_without_energy_there_is_no_column() -> None:
    some = sweep(RUN, dataclasses.replace(WITHOUT, quant="dynamic"))
    for table in (summary_table(some), full_table(some)):
        assert f"Energy, empty: not measured in 1 of 2 runs ({NO_COUNTER})." in table.notes
    assert column(summary_table(some), "Energy B64 (mJ)") == ["0.250, 2.00x", ""]
    none = sweep(WITHOUT, dataclasses.replace(WITHOUT, quant="dynamic"))
    for table in (summary_table(none), full_table(none)):
        assert not [name for name in table.columns if "nergy" in name]
        assert "nergy" not in note(table)
    tables = [(SUMMARY, summary_table(none)), ("Runs", full_table(none))]
    assert "nergy" not in html(none, [], tables)


def test_the_csv_files_have_flops_and_energy_and_the_reason_why_a_run_has_none() -> None:
    some = sweep(RUN, dataclasses.replace(WITHOUT, quant="dynamic"))
    first, second = rows_of(sweep_csv(some))
    assert first["FLOPs"] == "2940928"
    assert [float(first[f"Energy B1{end} (J)"]) for end in ("", " low", " high")] == pytest.approx(
        [2e-3, 1.96e-3, 2.04e-3]
    )
    assert (second["Energy B1 (J)"], second["No energy because"]) == ("", NO_COUNTER)
    first, second = rows_of(full_csv(some))
    assert (float(first["energy_b1_j"]), first["no_energy_because"]) == (pytest.approx(0.002), "")
    assert (second["energy_b1_j"], second["no_energy_because"]) == ("", NO_COUNTER)
    for text in (sweep_csv(sweep(WITHOUT)), full_csv(sweep(WITHOUT))):
        assert "nergy" not in text
    assert rows_of(sweep_csv(sweep(report(flops=None))))[0]["FLOPs"] == ""


def test_the_table_of_a_network_says_its_flops_below() -> None:
    ((_, table),) = network_tables(sweep(method("static"), method("qat")))
    assert "MFLOPs of the float network for one example: 2.94." in table.notes


def test_a_rerun_with_other_flops_is_not_the_same_network() -> None:
    table, same = side_by_side(report(), report(), elsewhere=False)
    assert (row(table, "FLOPs"), same) == (("FLOPs", "2,940,928", "2,940,928", "equal"), True)
    table, same = side_by_side(report(), report(flops=2_940_930), elsewhere=False)
    assert (row(table, "FLOPs")[-1], same) == ("differs by +2", False)
    table, same = side_by_side(report(flops=None), report(), elsewhere=False)
    assert (not [cells for cells in table.rows if cells[0] == "FLOPs"], same) == (True, True)
