from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping

import pytest
from rich.console import Console

from quantexp.reports.notes import notes
from quantexp.reports.table import Table, comparison_table
from quantexp.results import (
    Account,
    Evidence,
    Finding,
    Layer,
    LeftInFloat,
    Measured,
    NotFaster,
    Operator,
    QualityChange,
    Report,
    Speedup,
)
from quantexp.results.text import size_text
from tests.builders import (
    comparison,
    conditions,
    data,
    latency,
    lone,
    measured,
    other_float,
    quality,
    report,
    speedup,
)

COLUMNS = ("Task", "Quantization", "dtype", "Size (MB)", "Params", "Accuracy")


def model(precision: str, *, correct: int, megabytes: float, ms: Mapping[int, float]) -> Measured:
    """A model with round figures: the deviation is a tenth of the mean, the first call takes ten of them."""
    size = dataclasses.replace(measured().size, state_bytes=int(1e6 * megabytes))
    times = tuple(latency(at, mean, mean_ms=mean, std_ms=mean / 10, first_call_ms=10 * mean) for at, mean in ms.items())
    right = dataclasses.replace(quality(correct), low=correct / 1000 - 0.02, high=correct / 1000 + 0.01)
    return measured(precision, quality=right, size=size, latency=times)


BASELINE = model("fp32", correct=980, megabytes=5.884, ms={1: 0.5, 64: 4.0})
QUANTIZED = model("int8", correct=976, megabytes=1.471, ms={1: 0.2, 64: 2.0})
COMPARISON = comparison(
    drop=0.004,
    flips_gained=2,
    flips_lost=6,
    p_value=0.2890625,
    detectable_drop=0.0125,
    compression=4.0,
    speedups=(Speedup(1, 2.5, 2.4, 2.6, 0.01), Speedup(64, 2.0, 1.9, 2.1, 0.01)),
    training_ratio=1.5,
)
REPORT = report(
    quant="qat",
    baseline=BASELINE,
    quantized=dataclasses.replace(QUANTIZED, train_seconds=15.04),
    comparison=COMPARISON,
    calibration=None,
)
FLOAT = lone(baseline=BASELINE)
SAMPLE = dataclasses.replace(REPORT, data=data("sample"))
SHAKY = dataclasses.replace(REPORT, conditions=(conditions(1), conditions(64, unstable=("it shook", "it rattled"))))


def changes(made: Report) -> dict[str, str]:
    """What changed, by row."""
    return {row[0]: row[-1] for row in comparison_table(made).rows}


def with_comparison(**parts: object) -> Report:
    assert COMPARISON.quality is not None
    of_quality = {name: parts.pop(name) for name in QualityChange.__dataclass_fields__ if name in parts}
    change = dataclasses.replace(COMPARISON.quality, **of_quality)  # type: ignore[arg-type]
    return dataclasses.replace(
        REPORT,
        comparison=dataclasses.replace(COMPARISON, quality=change, **parts),  # type: ignore[arg-type]
    )


def note(table: Table) -> str:
    return "\n".join(table.notes)


# One run


def test_one_run_shows_both_models_and_what_changed() -> None:
    table = comparison_table(REPORT)
    assert table.columns == ("mnist, mlp", "", "", "vs float")
    assert table.rows == (
        ("Quantization", "none", "qat", ""),
        ("dtype", "fp32", "int8", ""),
        ("Size (MB)", "5.88", "1.47", "4.00x smaller"),
        ("Params", "1,470,474", "1,470,474", ""),
        ("MFLOPs", "2.94", "2.94", ""),
        ("Accuracy (%)", "98.00 [96.00, 99.00]", "97.60 [95.60, 98.60]", "-0.40 points: +2 / -6 examples"),
        ("Latency B1 (ms)", "0.500 ± 0.050", "0.200 ± 0.020", "2.50x [2.40, 2.60] faster"),
        ("Latency B64 (ms)", "4.000 ± 0.400", "2.000 ± 0.200", "2.00x [1.90, 2.10] faster"),
        ("First call (ms)", "5.00", "2.00", ""),
        ("Load (ms)", "12", "12", ""),
        ("Training (s)", "10.0", "15.0", "1.50x the time"),
    )


def test_one_run_without_a_quantized_model_shows_the_float_model_alone() -> None:
    table = comparison_table(FLOAT)
    assert table.columns == ("mnist, mlp", "")
    assert {len(row) for row in table.rows} == {2}
    assert ("Accuracy (%)", "98.00 [96.00, 99.00]") in table.rows
    assert ("Quantization", "none") in table.rows
    assert table.notes == (
        "Latency: forward pass, mean ± std (paired: over timed blocks of calls), CPU threads: 1. [ ]: 95 % interval.",
        "MFLOPs: of the float network for one example, in millions; a multiply-accumulate is two.",
    )


def test_no_change_of_the_accuracy_has_no_minus_sign() -> None:
    same = with_comparison(drop=0.0, flips_gained=3, flips_lost=3)
    assert changes(same)["Accuracy (%)"] == "+0.00 points: +3 / -3 examples"


def test_a_gain_of_accuracy_has_a_plus_sign() -> None:
    better = with_comparison(drop=-0.004, flips_gained=6, flips_lost=2)
    assert changes(better)["Accuracy (%)"] == "+0.40 points: +6 / -2 examples"


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (Speedup(1, 2.5, 2.4, 2.6, 0.01), "2.50x [2.40, 2.60] faster"),
        (Speedup(1, 0.5, 0.4, 0.6, 0.01), "0.50x [0.40, 0.60] slower"),
        (Speedup(1, 1.0, 0.97, 1.02, 0.01), "1.00x [0.97, 1.02] undecided"),
        (Speedup(1, 2.5, None, None, 0.01), "2.50x"),
    ],
    ids=["faster", "slower", "undecided", "no interval"],
)
def test_a_speedup_is_called_faster_or_slower_only_if_it_is_significant(one: Speedup, told: str) -> None:
    assert changes(with_comparison(speedups=(one,)))["Latency B1 (ms)"] == told


def test_a_time_that_is_not_known_is_left_blank() -> None:
    untrained = dataclasses.replace(with_comparison(training_ratio=None), quantized=QUANTIZED)
    untrained = dataclasses.replace(untrained, quantized=dataclasses.replace(QUANTIZED, train_seconds=None))
    assert comparison_table(untrained).rows[-1] == ("Training (s)", "10.0", "", "")


def test_a_time_to_load_that_is_not_known_is_left_blank() -> None:
    full = dataclasses.replace(REPORT, quantized=dataclasses.replace(QUANTIZED, load_ms=None))
    assert ("Load (ms)", "12", "", "") in comparison_table(full).rows


def test_memory_has_a_row_where_it_was_measured_and_only_there() -> None:
    assert "Memory (MB)" not in changes(REPORT)
    heavy = dataclasses.replace(
        REPORT,
        baseline=dataclasses.replace(BASELINE, memory_bytes=41_600_000),
        quantized=dataclasses.replace(QUANTIZED, memory_bytes=12_400_000),
    )
    assert comparison_table(heavy).rows[-1] == ("Memory (MB)", "42", "12", "")


# The compiled float model


def test_the_compiled_float_model_stands_below_the_eager_one_at_each_batch_size() -> None:
    over = (Speedup(1, 1.8, 1.7, 1.9, 0.01), Speedup(64, 1.0, 0.99, 1.01, 0.01))
    made = dataclasses.replace(
        REPORT,
        others=(
            other_float(
                latency=tuple(latency(at, ms, mean_ms=ms, std_ms=ms / 10) for at, ms in ((1, 0.36), (64, 2.0))),
                speedups=(Speedup(1, 1.39, 1.3, 1.5, 0.01), Speedup(64, 2.0, 1.9, 2.1, 0.01)),
                quantized_speedups=over,
            ),
        ),
    )
    rows = comparison_table(made).rows
    assert rows[6:10] == (
        ("Latency B1 (ms)", "0.500 ± 0.050", "0.200 ± 0.020", "2.50x [2.40, 2.60] faster"),
        ("  compiled B1", "0.360 ± 0.036", "", "vs compiled: 1.80x [1.70, 1.90] faster"),
        ("Latency B64 (ms)", "4.000 ± 0.400", "2.000 ± 0.200", "2.00x [1.90, 2.10] faster"),
        ("  compiled B64", "2.000 ± 0.200", "", "vs compiled: 1.00x [0.99, 1.01] undecided"),
    )
    assert {len(row) for row in rows} == {4}


def test_without_a_quantized_model_the_compiled_one_is_set_against_the_eager_one() -> None:
    made = lone(baseline=BASELINE, others=(other_float(speedups=(speedup(1, 2.0, spread=0.1), speedup(64, 1.0))),))
    table = comparison_table(made)
    assert table.columns == ("mnist, mlp", "", "vs float")
    told = changes(made)
    assert told["  compiled B1"] == "compiled vs eager: 2.00x [1.90, 2.10] faster"
    assert told["  compiled B64"] == "compiled vs eager: 1.00x [0.99, 1.00] no difference"


def test_without_the_compiled_model_there_is_no_row_for_it() -> None:
    assert not [name for name in changes(REPORT) if "compiled" in name]


# What the figures do not say by themselves


def test_what_the_test_of_the_accuracy_says_is_a_sentence() -> None:
    assert comparison_table(REPORT).notes[0] == (
        "Accuracy: no significant difference (exact McNemar test, p = 0.289); "
        "minimum detectable drop: 1.25 points (80 % power)."
    )
    few = comparison_table(with_comparison(detectable_drop=1.0)).notes[0]
    assert few.endswith("; the test set is too small to detect any drop.")
    lost = comparison_table(with_comparison(p_value=0.03125, flips_gained=0, flips_lost=6))
    assert lost.notes[0].startswith("Accuracy: significant loss (exact McNemar test, p = 0.031);")
    gained = comparison_table(with_comparison(p_value=1e-9, flips_gained=99, flips_lost=1))
    assert gained.notes[0].startswith("Accuracy: significant gain (exact McNemar test, p < 0.001);")


def evidence(*left: LeftInFloat) -> Evidence:
    layers = tuple(Layer(f"layers.{at}", "Linear", "fp32" if at == 0 and left else "int8", 8) for at in (0, 2, 4))
    ran = (Operator("quantized.linear", "int8", 2, 750), Operator("aten.addmm", "fp32", 1, 250))
    return Evidence(layers, ran if left else ran[:1], left)


def test_what_was_quantized_is_a_sentence() -> None:
    whole = dataclasses.replace(REPORT, quantized=dataclasses.replace(QUANTIZED, evidence=evidence()))
    assert comparison_table(whole).notes[1] == (
        "Evidence: 3 of 3 layers have int8 weights, 100% of the multiply-accumulates ran in int8."
    )


def test_a_layer_left_in_float_is_named_with_its_reason() -> None:
    left = LeftInFloat("layers.0", "the method handles nn.Linear, not Bilinear")
    part = dataclasses.replace(REPORT, quantized=dataclasses.replace(QUANTIZED, evidence=evidence(left)))
    assert comparison_table(part).notes[1] == (
        "Evidence: 2 of 3 layers have int8 weights, 75% of the multiply-accumulates ran in int8; "
        "left in float: layers.0 (the method handles nn.Linear, not Bilinear)."
    )


def test_what_is_said_does_not_grow_with_the_layers_left_in_float() -> None:
    reasons = ("not quantized", "it is shared", "not nn.Linear", "unfit")
    left = [LeftInFloat(f"layers.{index}", reasons[index % 4]) for index in range(400)]
    part = dataclasses.replace(REPORT, quantized=dataclasses.replace(QUANTIZED, evidence=evidence(*left)))
    assert (
        comparison_table(part)
        .notes[1]
        .endswith(
            "; left in float: layers.0, layers.4 and 98 others (not quantized), "
            "layers.1, layers.5 and 98 others (it is shared), 200 others (for other reasons)."
        )
    )


def test_no_share_is_given_where_an_operator_is_unknown() -> None:
    counted = dataclasses.replace(evidence(), account=Account(750, ("my.op", "aten._fft_r2c")))
    unknown = dataclasses.replace(REPORT, quantized=dataclasses.replace(QUANTIZED, evidence=counted))
    assert comparison_table(unknown).notes[1] == (
        "Evidence: 3 of 3 layers have int8 weights, no share of multiply-accumulates is given: "
        "the account does not know my.op and aten._fft_r2c."
    )


def test_why_a_model_is_not_faster_is_said_for_each_batch_size_at_which_it_is_not() -> None:
    made = with_comparison(
        speedups=(Speedup(1, 0.5, 0.4, 0.6, 0.01), Speedup(64, 1.0, 0.98, 1.04, 0.01)),
        not_faster=(NotFaster(1, ("the calls decide", "no VNNI")), NotFaster(64, ("no VNNI",))),
    )
    assert comparison_table(made).notes[2:4] == (
        "Latency at batch 1: slower. Reasons: the calls decide; no VNNI.",
        "Latency at batch 64: undecided: between 2.1 % slower and 4 % faster. Reasons: no VNNI.",
    )
    assert "Reasons" not in note(comparison_table(REPORT))
    one = with_comparison(not_faster=(NotFaster(64, ("no VNNI",)),))
    assert [text for text in comparison_table(one).notes if "Reasons" in text] == [
        "Latency at batch 64: faster. Reasons: no VNNI."
    ]


def test_each_reason_for_unstable_latencies_is_a_sentence_and_the_advice_is_given_once() -> None:
    text = note(comparison_table(SHAKY))
    assert (
        "UNSTABLE at batch 64: it shook.\nUNSTABLE at batch 64: it rattled.\nThese latencies are not reliable" in text
    )
    assert text.count("measure again") == 1
    assert "UNSTABLE" not in note(comparison_table(REPORT))
    assert "UNSTABLE at batch 64: it shook." in note(
        comparison_table(dataclasses.replace(FLOAT, conditions=SHAKY.conditions))
    )
    assert "measure again" not in note(comparison_table(FLOAT))


# Sample data, mixed conditions


def test_the_sample_data_are_labelled_and_the_note_says_what_they_are_worth() -> None:
    assert comparison_table(SAMPLE).columns[0] == "mnist (sample), mlp"
    assert "sample: the small data set in the package" in note(comparison_table(SAMPLE))
    assert "sample" not in note(comparison_table(FLOAT))


def test_the_note_names_the_protocol_and_the_threads() -> None:
    assert "(paired: over timed blocks of calls), CPU threads: 1." in note(comparison_table(REPORT))
    lab = dataclasses.replace(REPORT, benchmark="lab", threads=4)
    assert "(lab: over single calls), CPU threads: 4." in note(comparison_table(lab))


def test_the_note_names_every_protocol_and_every_number_of_threads_of_several_runs() -> None:
    lab = dataclasses.replace(REPORT, benchmark="lab", threads=10)
    several = [REPORT, lab, dataclasses.replace(REPORT, threads=2)]
    told = "(lab: over single calls; paired: over timed blocks of calls), CPU threads: 1, 2, 10."
    assert told in " ".join(notes(several))


def test_the_note_says_when_the_test_split_was_calibrated_on() -> None:
    tested = dataclasses.replace(REPORT, calibration="test")
    assert "Calibrated on the test split" in note(comparison_table(tested))
    assert "Calibrated on the test split." in notes([REPORT, tested])
    assert "Calibrated" not in note(comparison_table(dataclasses.replace(REPORT, calibration="train")))


# Markdown, the terminal


def test_accuracy_on_the_validation_split_is_called_so() -> None:
    held = dataclasses.replace(REPORT.data, validation=144, evaluation="validation")
    validated = dataclasses.replace(REPORT, data=held)
    assert "Accuracy on the validation split: 144 examples held out of the training split." in note(
        comparison_table(validated)
    )
    assert "With evaluation=validation: accuracy on the validation split" in " ".join(notes([REPORT, validated]))
    unused = dataclasses.replace(REPORT, data=dataclasses.replace(held, evaluation="test"))
    assert "validation" not in note(comparison_table(unused))


def test_markdown_is_a_table_with_a_rule_and_each_note_below() -> None:
    made = Table(("Task", "Quantization", "Size (MB)"), (("mnist", "qat", "1.47"),), ("one", "two"))
    lines = made.markdown().splitlines()
    assert lines == [
        "| Task | Quantization | Size (MB) |",
        "| --- | --- | ---: |",
        "| mnist | qat | 1.47 |",
        "",
        "- one",
        "- two",
    ]


def test_pipes_and_line_breaks_do_not_break_a_row_of_markdown() -> None:
    table = Table(("Task", "Accuracy"), (("mine|yours", "two\nlines"),), ("note",))
    assert table.markdown().splitlines()[2:] == ["| mine\\|yours | two lines |", "", "- note"]


def test_markdown_finds_neither_html_nor_links_in_what_a_table_holds() -> None:
    table = Table(("<b>", "Accuracy"), (("[x](http://y)", "<script>"),), ("<img src=x>, p < 0.001",))
    shown = table.markdown().splitlines()
    assert shown[0] == "| \\<b> | Accuracy |"
    assert shown[2] == "| [x\\](http://y) | \\<script> |"
    assert shown[-1] == "- \\<img src=x>, p < 0.001"


def test_the_terminal_shows_every_cell_and_every_note_and_takes_none_for_markup() -> None:
    odd = dataclasses.replace(SHAKY, task="[red]mine", others=(other_float(),))
    console = Console(width=250, record=True, file=io.StringIO())
    table = comparison_table(odd)
    console.print(table.rich())
    shown = console.export_text()
    assert "[red]mine" in shown
    for cell in (cell for row in table.rows for cell in row):
        assert cell in shown
    unfolded = " ".join(shown.split())
    for text in table.notes:
        assert text in unfolded


def test_text_from_a_store_does_not_steer_the_terminal() -> None:
    table = Table(("name",), (("\x1b[2Jgone \u202e backwards",),), ("\x07",))
    console = Console(record=True, file=io.StringIO(), width=80)
    console.print(table.rich())
    shown = console.export_text()
    assert "�[2Jgone � backwards" in shown
    assert not {"\x1b", "\u202e", "\x07"} & set(shown)


@pytest.mark.parametrize(
    ("size_mb", "text"), [(5.883896, "5.88"), (1.0, "1.00"), (0.250821, "0.251"), (0.076, "0.076")]
)
def test_sizes_have_two_digits_behind_the_point_and_three_below_one_megabyte(size_mb: float, text: str) -> None:
    assert size_text(size_mb) == text


def test_the_findings_of_self_checks_are_sentences_below_the_table() -> None:
    finding = Finding("repeated", "the float network is random in evaluation mode")
    text = comparison_table(report(findings=(finding,))).markdown()
    assert "FINDING: the float network is random in evaluation mode." in text
    assert "FINDING" not in comparison_table(report()).markdown()


def test_a_table_that_is_cut_says_how_many_rows_are_left_out() -> None:
    table = Table(("a",), (("1",), ("2",), ("3",)), ("note",))
    assert table.cut(3) is table
    assert table.cut(2) == Table(
        ("a",), (("1",), ("2",)), ("note", "Rows that are not shown here: 1. The written report has all.")
    )
