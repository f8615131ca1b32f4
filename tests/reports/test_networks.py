"""A table a network: what each method changed against float, what inspection found, and what cannot be had."""

from __future__ import annotations

import dataclasses

from quantexp.reports.networks import network_tables, unsupported_table
from quantexp.reports.sweep_csv import full_csv
from quantexp.reports.sweep_table import progress_notes
from quantexp.reports.table import Table
from quantexp.results import Evidence, Layer, Operator
from quantexp.results.sweep import UnsupportedEntry
from tests.builders import entry, lone, method, report, speedup, sweep

ERROR = "QuantizationError: quant.engine must be supported on this machine, got qnnpack"
EAGER = {"quant__flow": "eager", "quant__engine": "x86"}
PT2E = {"quant__flow": "pt2e", "quant__engine": "None"}
NO_TORCHAO = "quant.flow=torchao does not exist for quant=static"


def half_quantized(quant: str) -> Evidence:
    """One of two layers holds int8 and does a quarter of the products."""
    layers = (Layer("features.0", "Conv2d", "fp32", 32), Layer("classifier.0", "Linear", "int8", 8))
    operators = (Operator("conv2d", "fp32", 1, 3000), Operator(f"{quant}_linear", "int8", 1, 1000))
    return Evidence(layers, operators, ())


def only(tables: list[tuple[str, Table]]) -> Table:
    ((_, table),) = tables
    return table


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in table.rows]


def absent(quant: str, engine: str, reason: str) -> UnsupportedEntry:
    settings = {"task": "mnist", "quant": quant, "quant.flow": "torchao", "quant.engine": engine, "seed": "0"}
    asked = (f"quant={quant}", "quant.flow=torchao", f"quant.engine={engine}")
    return UnsupportedEntry(asked, settings, reason)


def test_a_row_is_a_method_with_its_levers_its_change_its_evidence_and_its_speed() -> None:
    one = method("static", gained=8, lost=2, p_value=0.109, correct=984, speedups=(speedup(1, 2.0),))
    quantized = dataclasses.replace(one.result, evidence=half_quantized("static"))
    made = [entry(dataclasses.replace(one, quantized=quantized), **EAGER), entry(method("static"), **PT2E)]
    table = only(network_tables(sweep(*made)))
    assert table.columns[:4] == ("Quantization", "dtype", "flow", "engine")
    assert [row[:4] for row in table.rows] == [
        ("none", "fp32", "", ""),
        ("static", "int8", "eager", "x86"),
        ("static", "int8", "pt2e", ""),
    ]
    assert table.rows[1][4:] == (
        *("1.50", "98.40", "+0.60 points: +8 / -2 examples", "no", "1 of 2", "25%"),
        *("2.00x [1.99, 2.01] faster", ""),
    )
    assert column(table, "Speedup B64") == ["", "", "4.00x [3.98, 4.02] faster"]


def test_a_speed_far_below_that_of_float_keeps_its_digits() -> None:
    slow = method("static", speedups=(speedup(1, 0.0085),))
    table = only(network_tables(sweep(slow, method("qat"))))
    assert column(table, "Speedup B1")[1] == "0.0085x [0.0085, 0.0085] slower"


def test_only_speedups_with_an_interval_are_called_paired() -> None:
    def note(placements: int) -> str:
        ratios = (speedup(1, 2.0, placements=placements),)
        return "".join(
            only(network_tables(sweep(*(method(name, speedups=ratios) for name in ("static", "qat"))))).notes
        )

    assert "Speedup: paired, [ ]: 95 % interval" in note(10)
    assert "Speedup: ratio of the mean latencies, without an interval" in note(1)


def test_each_network_has_a_table_of_its_own() -> None:
    made = [
        entry(dataclasses.replace(method(quant), model=model), model=model)
        for model in ("mlp", "lenet5")
        for quant in ("static", "qat")
    ]
    assert [title for title, _ in network_tables(sweep(*made))] == ["mnist, model=mlp", "mnist, model=lenet5"]


def test_a_network_with_one_method_needs_no_table() -> None:
    assert network_tables(sweep(lone(), report())) == []


def test_a_method_that_failed_is_a_row_with_its_error() -> None:
    failed = entry(None, error=ERROR, quant="static", quant__flow="eager", quant__engine="qnnpack")
    table = only(network_tables(sweep(entry(method("static"), **PT2E), failed)))
    assert table.rows[-1][:4] == ("static", "int8", "eager", "qnnpack")
    assert column(table, "Failed") == ["", "", ERROR]


def test_unsupported_combinations_have_a_row_per_reason_with_their_overrides() -> None:
    engines = "quant.engine cannot be chosen in quant.flow=torchao"
    found = [absent("static", engine, NO_TORCHAO) for engine in ("null", "x86")]
    table = unsupported_table(sweep(method("static"), unsupported=(*found, absent("dynamic", "x86", engines))))
    assert table is not None
    assert table.rows == (
        (NO_TORCHAO, "2", "quant=static quant.flow=torchao quant.engine=null,x86"),
        (engines, "1", "quant=dynamic quant.flow=torchao quant.engine=x86"),
    )
    assert unsupported_table(sweep(method("static"))) is None


def test_unsupported_combinations_are_neither_failed_nor_remaining() -> None:
    assert list(progress_notes(sweep(method("static"), unsupported=(absent("static", "x86", NO_TORCHAO),)))) == [
        "1 further combination is not supported; the report lists the reasons."
    ]


def test_the_csv_has_a_row_for_each_unsupported_combination() -> None:
    made = [entry(method("static"), **EAGER), entry(method("static"), **PT2E)]
    header, *rows = full_csv(sweep(*made, unsupported=(absent("static", "x86", NO_TORCHAO),))).splitlines()
    assert header.endswith(",error,unsupported")
    assert len(rows) == 3
    assert rows[-1].startswith(",quant=static quant.flow=torchao quant.engine=x86,mnist,static,,0,,,,,,torchao,x86,")
    assert rows[-1].endswith(f",{NO_TORCHAO}")
