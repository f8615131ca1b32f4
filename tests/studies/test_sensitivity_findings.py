"""What the study `sensitivity` tells, from reports that are given."""

from __future__ import annotations

from typing import Any

import pytest

from quantexp.config import Criterion
from quantexp.results import Report
from quantexp.statistics.paired import mcnemar
from quantexp.studies.sensitivity.findings import Part, SensitivityReport, metrics, variant_lines
from quantexp.studies.sensitivity.pictures import part_figure, pictures
from quantexp.studies.sensitivity.table import advice, table
from quantexp.tasks.objectives.between import change_between
from tests.builders import comparison, measured, quality_change, report, speedup

PNG = b"\x89PNG"
EXAMPLES = 1000


def variant(lost: int = 0, sqnr_db: float | None = 30.0, **changes: Any) -> Report:
    """A quantized model that loses the first `lost` test examples against float."""
    made = comparison(
        drop=lost / EXAMPLES,
        flips_gained=0,
        flips_lost=lost,
        gained_examples=(),
        lost_examples=tuple(range(lost)),
        p_value=mcnemar(0, lost),
        output_sqnr_db=sqnr_db,
        speedups=[speedup(1, 1.5)],
    )
    return report(comparison=made, **changes)


def part(name: str, alone: Report | None, all_but: Report | None, *layers: str) -> Part:
    return Part(name, layers or (name,), alone, all_but)


def study(whole: int, *parts: Part, **changes: Any) -> SensitivityReport:
    return SensitivityReport(variant(whole), parts, **{"failed": {}, **changes})


def test_parts_are_sorted_by_the_accuracy_they_cost_alone_and_ties_by_sqnr() -> None:
    found = study(
        60,
        part("little", variant(1, 50.0), variant(59)),
        part("equal", variant(0, None), variant(60)),  # the same outputs: no noise
        part("noisy", variant(3, 20.0), variant(57)),
        part("failed", None, variant(60)),
        part("most", variant(50, 5.0), variant(10)),
        part("less_noisy", variant(3, 25.0), variant(57)),
    )
    order = ["most", "noisy", "less_noisy", "little", "equal", "failed"]
    assert [one.name for one in found.ranked] == order
    assert [row[0] for row in table(found).rows] == ["all layers", *(name for one in order for name in (one, ""))]
    assert [line[0] for line in variant_lines(found)[1:]] == [
        "all layers",
        *(name for one in order for name in (one, one) if name != "failed"),
        "failed",
    ]


def test_a_row_has_the_figures_of_a_variant() -> None:
    alone = variant(4, 21.5, quantized=measured("int8", weight_bytes={"int8": 1_468_000}, loss=0.1))
    found = table(study(4, part("layers.0", alone, None), failed={"all but layers.0": "no kernel"}))
    assert found.rows[1] == (*("layers.0", "alone", "-0.40", "+0 / -4", "+0.0200", "21.5", "1.50x faster", "1.47"),)
    assert found.rows[2] == ("", "all but it", *[""] * 6)
    assert "Not measured: all but layers.0 (no kernel)." in found.notes


def test_two_models_differ_where_the_flips_of_one_are_not_those_of_the_other() -> None:
    first = quality_change(gained_examples=(1, 2), lost_examples=(5, 6, 7))
    second = quality_change(gained_examples=(2, 3), lost_examples=(7, 8))
    change = change_between(first, second, EXAMPLES)
    assert (change.gained_examples, change.lost_examples) == ((3, 5, 6), (1, 8))
    assert (change.flips_gained, change.flips_lost, change.drop) == (3, 2, -1 / EXAMPLES)
    assert change.p_value == mcnemar(3, 2)
    back = change_between(second, first, EXAMPLES)
    assert (back.gained_examples, back.lost_examples) == (change.lost_examples, change.gained_examples)
    assert change_between(first, first, EXAMPLES).p_value == 1


def test_parts_with_a_significant_gain_are_kept_in_float_the_greatest_first() -> None:
    found = study(
        60,
        part("layers.0", variant(20), variant(40)),
        part("features", variant(30), variant(25), "features.0", "features.3"),
        part("layers.4", variant(5), variant(59)),
        excluded=("layers.9",),
    )
    assert [one.part.name for one in found.to_keep] == ["features", "layers.0"]
    assert advice(found) == (
        "Keep features and layers.0 in float (quant.exclude=[layers.9,features.0,features.3,layers.0]). Gain over "
        "quantizing all layers: features +3.50 points (p < 0.001) and layers.0 +2.00 points (p < 0.001); "
        "exact McNemar test, 5 % over 3 tests."
    )
    assert "Modules: features (features.0, features.3)." in table(found).notes


@pytest.mark.parametrize(("won", "parts", "told"), [(6, 1, True), (5, 1, False), (6, 2, False), (7, 2, True)])
def test_many_tests_share_the_five_percent(won: int, parts: int, told: bool) -> None:
    """Six one-sided flips have p = 2 / 2^6 = 0.031, seven 0.016: enough for one test, and for two of 2.5 % each."""
    found = study(60, *(part(f"layers.{at}", variant(0), variant(60 - won * (at == 0))) for at in range(parts)))
    assert [one.part.name for one in found.to_keep] == ["layers.0"] * told


def test_without_a_significant_loss_the_advice_is_to_quantize_all_layers() -> None:
    quiet = study(2, part("layers.0", variant(1), variant(1)), part("layers.2", variant(1), variant(1)))
    assert advice(quiet) == (
        "No layer causes a significant loss: quantize all layers (exact McNemar test, 5 % over 2 tests)."
    )


def test_a_significant_loss_that_no_single_layer_recovers_is_reported() -> None:
    both = study(60, part("layers.0", variant(60), variant(60)), part("layers.2", variant(60), variant(60)))
    assert advice(both).startswith("All layers together lose 6.00 points (p < 0.001), but leaving a single layer")
    only = study(60, part("layers.0", variant(60), None))
    assert advice(only).endswith("and without layers.0 nothing is left to quantize.")


def test_metrics_are_named_by_what_is_quantized() -> None:
    found = metrics(study(60, part("layers.0", variant(50, 5.0), variant(10)), part("layers.2", variant(1), None)))
    assert (found["parts"], found["kept_in_float"]) == (2, 1)
    assert (found["whole/accuracy_drop"], found["alone/layers.0/accuracy_drop"]) == (0.06, 0.05)
    assert (found["alone/layers.0/output_sqnr_db"], found["all_but/layers.0/speedup_b1"]) == (5.0, 1.5)
    assert {name.rpartition("/")[0] for name in found if "/" in name} == {
        *("whole", "alone/layers.0", "all_but/layers.0", "alone/layers.2"),
    }


def test_there_is_a_picture_of_accuracy_and_one_of_noise_with_a_row_a_part() -> None:
    found = study(
        60,
        part("layers.0", variant(50, None), variant(10)),
        part("a.module.with.a.name.that.is.far.too.long", None, variant(60)),
    )
    for criterion in Criterion:
        (axes,) = part_figure(found, criterion).axes
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert names[0] == "layers.0"
        assert len(names[1]) == 28
    assert all(picture.startswith(PNG) for picture in pictures(found).values())
