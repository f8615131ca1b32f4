from __future__ import annotations

import dataclasses

import pytest

from quantexp.analysis.names import place_names, setup_names
from quantexp.analysis.settings import settings_text
from quantexp.analysis.variants import networks, setups, variants
from quantexp.results import Report
from quantexp.results.sweep import Entry
from tests.builders import data, entry, lone, method, report, speedup, sweep, without_labels

STATIC = method("static")


def shown(*entries: Entry | Report) -> list[tuple[str, str]]:
    """The method of each variant and its settings."""
    return [(one.method, settings_text(one.settings)) for one in variants(sweep(*entries))]


def test_runs_that_differ_only_in_seed_are_one_variant() -> None:
    (one,) = variants(sweep(STATIC, dataclasses.replace(STATIC, seed=1), dataclasses.replace(STATIC, seed=2)))
    assert list(one.reports) == [0, 1, 2]


def test_runs_that_measured_other_batch_sizes_are_one_variant() -> None:
    small, large = method("static", speedups=[speedup(1, 2.0)]), method("static", speedups=[speedup(64, 4.0)])
    (one,) = variants(sweep(entry(small, batch_size="[1]"), entry(large, batch_size="[64]")))
    assert one.sizes == (1, 64)
    assert one.speedups(64)[0].ratio == 4.0
    assert len(one.reports) == 1


@pytest.mark.parametrize(
    "changes",
    [{"task": "sst2"}, {"quant": "qat"}, {"precision": "fp16"}, {"data": data("sample")}, {"threads": 2}],
    ids=lambda changes: next(iter(changes)),
)
def test_runs_that_differ_in_anything_else_are_two_variants(changes: dict[str, object]) -> None:
    assert len(variants(sweep(STATIC, dataclasses.replace(STATIC, **changes)))) == 2  # type: ignore[arg-type]


def test_a_setting_that_varies_separates_variants_and_is_named() -> None:
    assert shown(entry(STATIC, model__hidden="[64]"), entry(STATIC, model__hidden="[256]")) == [
        ("static int8", "hidden=[64]"),
        ("static int8", "hidden=[256]"),
    ]


def test_a_setting_of_the_method_belongs_to_the_method() -> None:
    found = variants(sweep(entry(STATIC, quant__engine="x86"), entry(STATIC, quant__engine="onednn")))
    assert [one.method for one in found] == ["static int8 x86", "static int8 onednn"]
    assert {one.network for one in found} == {()}


def test_the_split_separates_variants_even_if_each_method_has_only_one() -> None:
    dynamic = method("dynamic")
    tested, held = {"validation": "0.0", "evaluation": "test"}, {"validation": "0.1", "evaluation": "validation"}
    found = networks(sweep(entry(STATIC, **tested), entry(dynamic, **held)))
    assert [settings_text(one.settings) for one in found] == [
        *("validation=0.0, evaluation=test", "validation=0.1, evaluation=validation")
    ]
    assert shown(entry(STATIC, **held), entry(dynamic, **held)) == [("static int8", ""), ("dynamic int8", "")]


def test_a_setting_that_another_choice_brings_along_does_not_vary() -> None:
    found = shown(entry(STATIC, quant__engine="x86", model__hidden="[1024]"), entry(lone(), model__hidden="[1024]"))
    assert found == [("static int8", ""), ("none fp32", "")]
    sst2 = dataclasses.replace(STATIC, task="sst2")
    assert shown(entry(STATIC, model__hidden="[1024]"), entry(sst2, model__hidden="[256]")) == [
        ("static int8", ""),
        ("static int8", ""),
    ]


def test_settings_that_affect_no_result_separate_no_variants() -> None:
    other = entry(STATIC, data_dir="/there", cache_dir="/there", tracking__uri="there", sweep__name="there")
    here = entry(STATIC, data_dir="/here", cache_dir="/here", tracking__uri="here", sweep__name="here")
    assert shown(here, other) == [("static int8", "")]


def test_what_a_setting_holds_varies_with_it_and_what_no_option_knows_does_not() -> None:
    ones = (entry(STATIC, model__arguments__width=wide, old__setting=wide) for wide in ("8", "16"))
    assert shown(*ones) == [("static int8", "width=8"), ("static int8", "width=16")]


def test_runtimes_are_two_variants_of_two_networks() -> None:
    compiled = dataclasses.replace(STATIC, runtime="compiled")
    assert shown(STATIC, compiled) == [("static int8", "runtime=eager"), ("static int8", "runtime=compiled")]
    assert len(networks(sweep(STATIC, compiled))) == 2
    assert shown(compiled, entry(dataclasses.replace(compiled, quant="qat"))) == [("static int8", ""), ("qat int8", "")]


def test_random_inputs_are_drawn_anew_for_each_seed_and_are_no_other_data() -> None:
    drawn = [without_labels(dataclasses.replace(STATIC, seed=seed)) for seed in range(2)]
    fingerprints = [dataclasses.replace(one.data, fingerprint=str(one.seed) * 64) for one in drawn]
    pairs = zip(drawn, fingerprints, strict=True)
    (one,) = variants(sweep(*(dataclasses.replace(made, data=found) for made, found in pairs)))
    assert (list(one.reports), one.task, one.qualities()) == ([0, 1], "mnist (synthetic)", {})


def test_widths_that_are_said_twice_are_shown_once() -> None:
    ones = (entry(STATIC, task__hidden=wide, model__hidden=wide) for wide in ("[64]", "[256]"))
    assert [settings for _, settings in shown(*ones)] == ["hidden=[64]", "hidden=[256]"]


def test_networks_of_two_kinds_are_separated_by_their_names_and_not_by_the_settings_of_their_task() -> None:
    ones = [
        entry(method("static", model=model), **own, task__hidden=wide, task__crop=crop)
        for wide in ("[64]", "[256]")
        for model, crop, own in (("mlp", "20", {"model__hidden": wide}), ("lenet5", "32", {}))
    ]
    assert [settings for _, settings in shown(*ones)] == [
        "model=mlp, hidden=[64]",
        "model=lenet5",
        "model=mlp, hidden=[256]",
    ]
    assert len(networks(sweep(*ones))) == 3


def test_a_setting_of_the_protocol_belongs_to_the_setup() -> None:
    found = variants(sweep(entry(STATIC, benchmark__seconds="1"), entry(STATIC, benchmark__seconds="5")))
    assert [one.settings for one in found] == [(), ()]
    assert list(setup_names(setups(found)).values()) == ["seconds=1", "seconds=5"]


def test_runs_of_one_task_on_different_files_are_separated_by_their_digest() -> None:
    other = dataclasses.replace(STATIC, data=dataclasses.replace(data(), fingerprint="a" * 64))
    assert [settings for _, settings in shown(STATIC, other)] == ["data=ffffffff", "data=aaaaaaaa"]


def test_a_failure_has_no_setup_and_stands_behind_what_was_measured() -> None:
    failed = entry(None, error="DataError: no", quant="qat")
    found = variants(sweep(failed, STATIC))
    assert [(one.quant, one.setup is None) for one in found] == [("static", False), ("qat", True)]


def test_a_setup_is_named_by_what_tells_it_from_the_others() -> None:
    lab = dataclasses.replace(STATIC, benchmark="lab")
    assert list(setup_names(setups(variants(sweep(STATIC, lab)))).values()) == ["paired", "lab"]
    two = dataclasses.replace(STATIC, threads=2, host="there", machine="another")
    assert list(setup_names(setups(variants(sweep(STATIC, two)))).values()) == ["1 thread, here", "2 threads, there"]
    assert list(setup_names(setups(variants(sweep(STATIC)))).values()) == [""]


def test_a_host_that_changed_its_versions_counts_as_two_machines() -> None:
    newer = dataclasses.replace(STATIC, machine="EPYC, 2 cores, torch 2.16.0")
    assert list(place_names(setups(variants(sweep(STATIC, newer)))).values()) == ["here #1", "here #2"]


def test_a_network_has_the_float_model_first_whether_it_had_a_run_of_its_own_or_not() -> None:
    (alone,) = networks(sweep(STATIC))
    assert [one.method for one in alone.variants] == ["none fp32", "static int8"]
    assert alone.variants[0].qualities() == {0: 0.978}
    assert alone.variants[0].log_speedups(64) == {0: 0.0}
    (own,) = networks(sweep(STATIC, lone()))
    assert [one.method for one in own.variants] == ["none fp32", "static int8"]


def test_what_cannot_be_compared_is_not_in_one_network() -> None:
    two = dataclasses.replace(STATIC, threads=2)
    assert len(networks(sweep(STATIC, two))) == 2
    assert len(networks(sweep(entry(STATIC, model__hidden="[64]"), entry(STATIC, model__hidden="[256]")))) == 2


def test_of_equal_runs_the_last_counts() -> None:
    (one,) = variants(sweep(method("static", correct=970), method("static", correct=960)))
    assert one.qualities() == {0: 0.96}


def test_a_setting_without_a_value_is_not_named() -> None:
    fx = entry(STATIC, quant__flow="fx", quant__engine="x86")
    pt2e = entry(STATIC, quant__flow="pt2e", quant__engine="None")
    assert shown(fx, pt2e) == [("static int8 fx x86", "flow=fx, engine=x86"), ("static int8 pt2e", "flow=pt2e")]


def test_a_part_of_the_training_examples_is_a_task_of_its_own_for_failed_runs_too() -> None:
    part = dataclasses.replace(data(), train=500, drawn=True)
    failed = entry(None, error="out of memory", quant="qat", train__examples="500")
    entries = (
        entry(report(), train__examples="None"),
        entry(report(data=part), train__examples="500"),
        failed,
    )
    found = variants(sweep(*entries))
    named = "mnist (500 training examples)"
    assert [(variant.task, variant.quant) for variant in found] == [
        ("mnist", "static"),
        (named, "static"),
        (named, "qat"),
    ]
    assert [variant.settings for variant in found] == [(), (), ()], "they stand behind the name of the task"
