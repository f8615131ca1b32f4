"""Studies by output SQNR or agreement: on random inputs without labels, and on labelled data where asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from quantexp.config import Criterion, DataSource, Experiment, Search, Sensitivity, Single, Static
from quantexp.reports.findings import Findings
from quantexp.results import Evidence, Layer, Report
from quantexp.studies.search import study as search
from quantexp.studies.search.findings import Candidate, Choice, Goal, SearchReport
from quantexp.studies.search.pictures import latency_figure
from quantexp.studies.search.table import history, table
from quantexp.studies.sensitivity import study as sensitivity
from quantexp.system.errors import ConfigError, Mismatch
from tests.builders import comparison, measured, report, speedup, without_labels

SYNTHETIC: dict[str, Any] = {"data": DataSource.synthetic, "batch_size": 1}
LAYERS = ("a", "b", "c")


def close(sqnr_db: float | None, agreement: float, chosen: Sequence[str] = LAYERS, **changes: Any) -> Report:
    """A run whose outputs are so close to float's; each layer in int8 saves some of the time and of the size."""
    held = tuple(Layer(name, "Linear", "int8" if name in chosen else "fp32", 8) for name in LAYERS)
    plain = tuple(Layer(name, "Linear", "fp32", 32) for name in LAYERS)
    weights = {"fp32": 4000 - 1000 * len(chosen), "int8": 250 * len(chosen)}
    return report(
        baseline=measured(weight_bytes={"fp32": 4000}, evidence=Evidence(plain, (), ()), ms={1: 1}),
        quantized=measured("int8", weight_bytes=weights, evidence=Evidence(held, (), ()), ms={1: 1}),
        comparison=comparison(
            agreement=agreement, output_sqnr_db=sqnr_db, speedups=[speedup(1, 1 + len(chosen) / 2)], **changes
        ),
    )


def answered(steps: Any, noise: Mapping[str, float], *, labelled: bool = False) -> tuple[Findings, list[Experiment]]:
    """Answer each variant of a study: its SQNR is 60 dB less the noise of each layer that is quantized."""
    asked: list[Experiment] = []
    answer: Any = None
    try:
        while True:
            yielded = steps.send(answer)
            answer = None
            if isinstance(yielded, Experiment):
                asked.append(yielded)
                quant = yielded.quant
                assert isinstance(quant, Static)
                chosen = [name for name in quant.include or LAYERS if name not in quant.exclude]
                sqnr = 60 - sum(noise[name] for name in chosen)
                made = close(sqnr, 1 - (60 - sqnr) / 1000, chosen)
                answer = made if labelled else without_labels(made)
    except StopIteration as end:
        return end.value, asked


def studied(settings: Sensitivity, noise: Mapping[str, float], *, labelled: bool = False) -> Findings:
    data = {} if labelled else SYNTHETIC
    experiment = Experiment(quant=Static(), study=settings, **data)
    return answered(sensitivity.find(settings, experiment, str), noise, labelled=labelled)[0]


def searched(noise: Mapping[str, float], **settings: Any) -> tuple[Findings, list[Experiment]]:
    study = Search(**settings)
    experiment = Experiment(quant=Static(), study=study, **SYNTHETIC)
    return answered(search.find(study, experiment, lambda made: f"make {made.quant.name}"), noise)


# -- what is refused, and the repair ---------------------------------------------------------------------


def faults(study: Any, **parts: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        Experiment(study=study, **{**SYNTHETIC, **parts})
    assert all(isinstance(fault, Mismatch) for fault in error.value.faults)
    return error.value.faults


def test_ranking_by_accuracy_needs_labels() -> None:
    assert faults(Sensitivity()) == (
        "study.by=accuracy needs labels, and data=synthetic has none; use study.by=output_sqnr_db or "
        "study.by=agreement, or data=sample or data=full",
    )
    for by in ("output_sqnr_db", "agreement"):
        assert Experiment(study=Sensitivity(by=by), **SYNTHETIC).study  # type: ignore[arg-type]


def test_a_bound_on_accuracy_needs_labels() -> None:
    for study in (Search(), Search(max_accuracy_drop=0.1)):
        assert faults(study) == (
            "study.max_accuracy_drop needs labels, and data=synthetic has none; use study.min_output_sqnr_db=30 or "
            "study.min_agreement=0.99, or data=sample or data=full",
        )
    assert Experiment(study=Search(min_agreement=0.99), **SYNTHETIC).study


def test_a_method_that_trains_cannot_be_chosen_without_labels() -> None:
    (fault,) = faults(Search(min_agreement=0.9, methods=["static", "qat"]))
    assert fault.startswith("study.methods=qat trains, and data=synthetic has no labels to train on; leave it out")


def test_a_search_has_one_bound_and_without_one_the_usual_one() -> None:
    with pytest.raises(ConfigError, match="study=search takes one bound, got several"):
        Search(max_accuracy_drop=0.01, min_agreement=0.9)
    assert Search().bound == (Criterion.accuracy, 0.01)
    assert Search(min_output_sqnr_db=30).bound == (Criterion.output_sqnr_db, 30)
    assert Search(min_agreement=0.99).bound == (Criterion.agreement, 0.99)
    with pytest.raises(ConfigError, match=r"study\.min_agreement must be at most 1, got 99"):
        Search(min_agreement=99)


# -- sensitivity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [Criterion.output_sqnr_db, Criterion.agreement])
def test_without_labels_layers_are_ranked_by_what_they_do_to_the_outputs(by: Criterion) -> None:
    found = studied(Sensitivity(by=by), {"a": 1, "b": 20, "c": 5})
    assert [row[0] for row in found.table.rows] == ["all layers", "b", "", "c", "", "a", ""]
    assert found.table.columns[0] == "mnist (synthetic), mlp"
    assert not [name for name in found.table.columns if "Accuracy" in name or name in ("Examples", "Loss")]
    assert found.table.notes[0].startswith(
        "Keeping b in float (quant.exclude=[b]) brings the outputs closest to float: "
    )
    assert set(found.pictures) == {"agreement_by_layer.png", "sqnr_by_layer.png"}
    assert not [name for name in found.metrics if "accuracy" in name or "flips" in name]
    assert found.metrics["alone/b/output_sqnr_db"] == 40
    assert "accuracy" not in " ".join(map(str, found.lines["variants"][0]))


def test_if_no_layer_in_float_helps_the_advice_says_so() -> None:
    found = studied(Sensitivity(by=Criterion.output_sqnr_db), {"a": 0, "b": 0, "c": 0})
    assert found.table.notes[0].startswith("All layers quantized: SQNR 60.0 dB. Keeping a single layer in float brings")


def test_labelled_data_may_be_ranked_by_sqnr_too_and_keep_their_accuracy() -> None:
    found = studied(Sensitivity(by=Criterion.output_sqnr_db), {"a": 1, "b": 20, "c": 5}, labelled=True)
    assert [row[0] for row in found.table.rows if row[0]] == ["all layers", "b", "c", "a"]
    assert "Accuracy\n(points)" in found.table.columns
    assert "kept_in_float" not in found.metrics
    assert set(found.pictures) == {"accuracy_by_layer.png", "sqnr_by_layer.png"}


# -- search ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bound", [{"min_output_sqnr_db": 50}, {"min_agreement": 0.99}], ids=lambda value: next(iter(value))
)
def test_exactly_the_layer_that_breaks_the_bound_stays_in_float(bound: dict[str, float]) -> None:
    found, asked = searched({"a": 2, "b": 30, "c": 3}, **bound)
    assert found.table.rows[0][:2] == ("answer: all but b", "static int8")
    assert not [name for name in found.table.columns if "Accuracy" in name or name == "Examples"]
    assert {(type(one.study), str(one.evaluation), one.validation) for one in asked} == {(Single, "test", 0.0)}
    assert len(asked) == len({str(one.quant) for one in asked}), "without labels the answer is run once"
    assert not [name for name in found.metrics if name.startswith("test/") or "accuracy" in name]
    assert (found.metrics["best/output_sqnr_db"], found.metrics["best/within_bound"]) == (55, 1)
    notes = " ".join(found.table.notes)
    assert "To run the answer alone: make static" in notes
    assert "Decided on 1,024 random examples without labels; there is no separate test run." in notes
    assert "validation" not in notes


def test_a_bound_that_nothing_meets_ends_with_float() -> None:
    found, _ = searched({"a": 20, "b": 30, "c": 25}, min_output_sqnr_db=50)
    assert found.table.rows[0][:2] == ("answer: none", "float")
    assert "float; no quantized variant meets the bound, the nearest is static int8 on a, SQNR 40.0 dB" in (
        " ".join(found.table.notes)
    )


def test_outputs_that_are_equal_meet_every_bound_and_those_that_are_not_finite_none() -> None:
    goal = Goal(Criterion.output_sqnr_db, 1000, "size", 1, 0.01)
    equal, broken = (
        Candidate.measured(Choice(name, "static", ()), without_labels(close(None, agreement)))
        for name, agreement in (("equal", 1.0), ("broken", 0.2))
    )
    assert goal.met_by(equal)
    assert not goal.met_by(broken)
    assert not dataclasses.replace(goal, limit=-1000).met_by(broken)
    found = SearchReport(goal, (Candidate.unquantized(close(None, 1.0)),), (equal, broken), {}, "local")
    assert found.answer is equal
    assert [row[0] for row in table(found).rows] == ["answer: equal", "none", "broken"]
    assert [line[1] for line in history(found)[1:]] == ["none", "equal", "broken"]
    assert latency_figure(found).axes
