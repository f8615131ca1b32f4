from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from quantexp.config import DataSource, Dynamic, Experiment, Lab, NoQuant, Paired, Static
from quantexp.mission import run
from quantexp.results import Report

WIDTHS = [400, 1024, 1024, 10]
MACS = sum(before * after for before, after in pairwise(WIDTHS))


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return {}


@pytest.fixture
def static(reports: dict[str, Report], sample: Callable[..., Experiment]) -> Report:
    """A static run on the sample, made once."""
    if "static" not in reports:
        reports["static"] = run(sample(quant=Static())).report
    return reports["static"]


def test_multiply_accumulates_are_those_of_the_closed_form(static: Report) -> None:
    assert static.flops == 2 * MACS
    for model in (static.baseline, static.quantized):
        assert model is not None
        assert sum(one.macs for one in model.evidence.operators) == MACS
    assert static.baseline.evidence.mac_share("int8") == 0.0
    assert static.result.evidence.mac_share("int8") == 1.0


def test_a_stored_model_is_as_large_as_its_weights_and_a_little_more(static: Report) -> None:
    for model in (static.baseline, static.result):
        weights = sum(model.size.weight_bytes.values())
        assert weights < model.size.stored_bytes < 1.1 * weights
        assert model.load_ms > 0
    assert static.baseline.size.weight_bytes == {"fp32": 4 * static.baseline.size.parameters}


def test_every_batch_size_has_its_profile_its_conditions_and_its_speedup(static: Report) -> None:
    assert static.comparison is not None
    sizes = [1, 8]
    assert [one.batch_size for one in static.conditions] == sizes
    assert [one.batch_size for one in static.comparison.speedups] == sizes
    for model in (static.baseline, static.result):
        assert [one.batch_size for one in model.profiles] == sizes
    shares = {one.operator: one.share for one in static.baseline.profiles[1].shares}
    assert max(shares, key=lambda name: shares[name]) == "aten::addmm", "matrix products are most of an MLP"


def test_accuracies_and_flips_are_those_of_the_confusions(static: Report) -> None:
    comparison = static.comparison
    assert comparison is not None
    right = []
    for model in (static.baseline, static.result):
        quality = model.quality
        assert quality is not None
        assert sum(map(sum, quality.confusion)) == quality.total == static.data.test
        assert sum(row[label] for label, row in enumerate(quality.confusion)) == quality.correct
        right.append(quality.correct)
    change = comparison.quality
    assert change is not None
    assert change.flips_lost - change.flips_gained == right[0] - right[1]
    assert (len(change.gained_examples), len(change.lost_examples)) == (change.flips_gained, change.flips_lost)
    disagreements = round((1 - comparison.agreement) * static.data.test)
    assert disagreements >= change.flips_lost + change.flips_gained


def test_a_batch_size_at_which_it_is_not_faster_has_reasons_and_no_other(static: Report) -> None:
    assert static.comparison is not None
    slow = [one.batch_size for one in static.comparison.speedups if one.verdict != "faster"]
    assert [one.batch_size for one in static.comparison.not_faster] == slow
    assert all(one.reasons for one in static.comparison.not_faster)


def test_the_float_model_alone_has_no_comparison_and_no_speedup(sample: Callable[..., Experiment]) -> None:
    report = run(sample(quant=NoQuant())).report
    assert (report.quantized, report.comparison, report.others) == (None, None, ())


def test_lab_gives_ratios_without_intervals(sample: Callable[..., Experiment]) -> None:
    report = run(sample(quant=Dynamic(), benchmark=Lab())).report
    assert report.comparison is not None
    assert {one.verdict for one in report.comparison.speedups} == {"no interval"}
    assert {one.ended_by for one in report.conditions} == {"protocol"}


@pytest.mark.slow
def test_memory_is_measured_only_when_asked_for(sample: Callable[..., Experiment], static: Report) -> None:
    assert static.result.memory_bytes is None
    protocol = Paired(placements=2, seconds=0.02, memory=True)
    report = run(sample(quant=Dynamic(), batch_size=[1], benchmark=protocol)).report
    for model in (report.baseline, report.result):
        assert model.memory_bytes is not None
        assert model.memory_bytes > sum(model.size.weight_bytes.values()), "the weights lie in it, and more"


def test_loss_and_noise_are_those_of_the_logits_on_the_test_split(static: Report) -> None:
    assert static.comparison is not None
    assert static.comparison.output_sqnr_db is not None
    assert 20 < static.comparison.output_sqnr_db < 60, "eight bits: some 6 dB each, less what the layers add up to"
    for model in (static.baseline, static.result):
        assert model.loss is not None
        assert 0 < model.loss < 1


def test_without_labels_there_is_agreement_and_sqnr_and_no_quality_anywhere(sample: Callable[..., Experiment]) -> None:
    report = run(sample(quant=Static(), data=DataSource.synthetic)).report
    assert report.objective == "unlabelled"
    assert [(one.quality, one.loss, one.train_seconds) for one in (report.baseline, report.result)] == [(None,) * 3] * 2
    comparison = report.comparison
    assert comparison is not None
    assert comparison.quality is None
    assert 0 < comparison.agreement <= 1
    assert comparison.output_sqnr_db is not None and comparison.output_sqnr_db > 0
    assert [one.batch_size for one in comparison.speedups] == [1, 8]
    assert report.result.evidence.mac_share("int8") == 1.0
