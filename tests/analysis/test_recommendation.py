from __future__ import annotations

import dataclasses

from quantexp.analysis.recommendation import recommend
from quantexp.results import Finding, Report, Speedup
from tests.builders import comparison, conditions, entry, lone, method, speedup, sweep, without_labels


def at(one: float, many: float, *, spread: float = 0.01) -> list[Speedup]:
    """Speedups at batches 1 and 64, each known to half of `spread`."""
    return [speedup(1, one, spread=spread), speedup(64, many, spread=spread)]


STATIC = method("static", megabytes=1.52, speedups=at(2.0, 3.0))
QAT = method("qat", megabytes=1.53, speedups=at(1.5, 4.0))


def seeds(quant: str, corrects: list[int], ratio: float = 2.0) -> list[Report]:
    return [
        method(quant, correct=correct, speedups=[speedup(1, ratio)], seed=seed) for seed, correct in enumerate(corrects)
    ]


def test_the_fastest_is_named_for_each_batch_size() -> None:
    text = recommend(sweep(lone(), STATIC, QAT))
    assert text.startswith("mnist: ")
    assert "At batch 1, static int8 is fastest: speedup 2.00x [1.99, 2.01]." in text
    assert "At batch 64, qat int8 is fastest: speedup 4.00x [3.98, 4.02]." in text
    assert text.endswith(
        "Recommended for speed without significant loss of accuracy: static int8 at batch 1, qat int8 at batch 64."
    )


def test_neighbouring_batch_sizes_with_the_same_result_share_a_sentence() -> None:
    many = [speedup(size, 2.0 + size / 10) for size in (1, 2, 4)]
    text = recommend(sweep(method("static", speedups=many)))
    assert "At batches 1 to 4, static int8 is fastest: speedup 2.10x [2.09, 2.11] to 2.40x [2.39, 2.41]." in text
    assert "static int8 at batches 1 to 4." in text


def test_a_method_without_significant_difference_to_the_fastest_is_named_with_it() -> None:
    close = method("qat", speedups=at(1.99, 3.0))
    assert "static int8 is fastest (no significant difference to qat int8)" in recommend(sweep(STATIC, close))
    assert "no significant difference to" not in recommend(sweep(STATIC, method("qat", speedups=at(1.5, 2.0))))


def test_where_nothing_is_faster_the_float_model_is_advised() -> None:
    text = recommend(sweep(method("static", speedups=[speedup(1, 1.0)])))
    assert "At batch 1, no method is significantly faster than float; the closest is static int8: speedup 1.00x" in text
    assert text.endswith(": float at batch 1.")


def test_a_protocol_without_intervals_tells_no_fastest() -> None:
    lab = method("static", speedups=[speedup(1, 2.0, placements=1)], benchmark="lab")
    text = recommend(sweep(lab))
    assert "static int8 has the lowest latency (this protocol gives no confidence intervals)" in text
    assert "Recommended" not in text


def test_the_smallest_is_named_and_those_that_are_nearly_as_small() -> None:
    text = recommend(sweep(STATIC, QAT, method("amp", "bf16", megabytes=5.88)))
    assert "Smallest: static int8, 1.52 MB, 3.87x smaller than float; within 5 % of it: qat int8." in text
    alone = recommend(sweep(method("amp", "bf16", megabytes=5.88)))
    assert "No method is smaller than float (5.88 MB)." in alone


def test_with_one_seed_the_mcnemar_test_tells_what_costs_accuracy() -> None:
    worse = method("amp", "bf16", correct=958, gained=3, lost=23, p_value=0.00009, speedups=at(5.0, 5.0))
    better = method("qat", correct=990, gained=14, lost=2, p_value=0.004, speedups=at(1.5, 1.5))
    text = recommend(sweep(STATIC, worse, better))
    assert "Significant loss of accuracy: amp bf16 (-2.00 points: +3 / -23 examples, p < 0.001)." in text
    assert "Significant gain of accuracy: qat int8 (+1.20 points: +14 / -2 examples, p = 0.004)." in text
    assert "No significant difference in accuracy: static int8 (-0.20 points: +2 / -4 examples)." in text
    assert "Minimum detectable drop: 0.90 points (80 % power)." in text
    assert text.endswith("Recommended for speed without significant loss of accuracy: static int8 at batches 1 and 64.")


def test_with_several_seeds_the_differences_between_them_tell_it() -> None:
    lost = seeds("static", [948, 948, 948])  # 978 of 1000 without it
    unclear = seeds("qat", [968, 978, 988])
    text = recommend(sweep(*lost, *unclear))
    assert "Significant loss of accuracy: static int8 (-3.00 points [-3.10, -2.90] over 3 seeds)." in text
    assert "No significant difference in accuracy: qat int8 (+0.00 points [-2.48, +2.48] over 3 seeds)." in text
    assert "p = " not in text


def test_a_loss_with_one_scale_for_a_layer_points_to_scales_per_channel() -> None:
    coarse = dataclasses.replace(STATIC, findings=(Finding("weights", "the loss is significant"),))
    told = "One scale for all weights of a layer in static int8: try quant.weights=per_channel."
    assert told in recommend(sweep(lone(), coarse))
    assert "One scale" not in recommend(sweep(lone(), STATIC))


def test_unstable_latencies_are_named() -> None:
    shaky = dataclasses.replace(STATIC, conditions=(conditions(1), conditions(64, unstable=("it shook",))))
    assert "measure again without what disturbed them: static int8 at batch 64" in recommend(sweep(lone(), shaky))
    assert "Unstable" not in recommend(sweep(lone(), STATIC))


def test_setups_and_networks_have_paragraphs_of_their_own() -> None:
    there = dataclasses.replace(STATIC, host="there", machine="Xeon")
    starts = [text.partition(":")[0] for text in recommend(sweep(STATIC, there)).split("\n\n")]
    assert starts == ["mnist (here)", "mnist (there)"]
    other = dataclasses.replace(STATIC, task="sst2")
    starts = [text.partition(":")[0] for text in recommend(sweep(STATIC, other, there)).split("\n\n")]
    assert starts == ["mnist (here)", "mnist (there)", "sst2 (here)"]
    wide = sweep(entry(STATIC, model__hidden="[64]"), entry(STATIC, model__hidden="[256]"))
    starts = [text.partition(":")[0] for text in recommend(wide).split("\n\n")]
    assert starts == ["mnist (hidden=[64])", "mnist (hidden=[256])"]


def test_many_networks_have_one_paragraph_that_says_where_a_method_gains_least_and_most() -> None:
    ones = [
        entry(method("static", speedups=[speedup(1, ratio)]), model__hidden=f"[{width}]")
        for width, ratio in ((16, 0.5), (64, 1.0), (256, 2.0), (1024, 4.0))
    ]
    text = recommend(sweep(*ones))
    assert text.count("\n\n") == 0
    assert text.startswith("mnist (4 networks): static int8 at batch 1 is faster than float in 2 of 4 networks: ")
    assert "0.50x [0.50, 0.50] (hidden=[16]) to 4.00x [3.98, 4.02] (hidden=[1024])." in text
    assert "No significant difference in accuracy in any of them." in text


def test_without_labels_the_closest_to_float_is_named_and_nothing_is_said_of_losses() -> None:
    close, far = (
        dataclasses.replace(made, comparison=comparison(agreement=same, output_sqnr_db=sqnr, speedups=at(2.0, 3.0)))
        for made, same, sqnr in ((STATIC, 0.99, 30.5), (QAT, 0.95, 20.0))
    )
    text = recommend(sweep(without_labels(close), without_labels(far)))
    assert text.startswith("mnist (synthetic): At batches 1 and 64, static int8 is fastest")
    assert "Outputs closest to float: static int8 (agreement 99.00 %, SQNR 30.5 dB), then qat int8" in text
    assert "The data have no labels, so the accuracy is unknown." in text
    assert "loss" not in text
    mixed = recommend(sweep(close, far, without_labels(close)))
    assert [text.partition(":")[0] for text in mixed.split("\n\n")] == ["mnist", "mnist (synthetic)"]


def test_many_networks_without_labels_have_one_paragraph_too() -> None:
    ones = [entry(without_labels(method("static")), model__hidden=f"[{width}]") for width in (8, 16, 32, 64)]
    text = recommend(sweep(*ones))
    assert text.startswith("mnist (synthetic) (4 networks): static int8 at batch 1")
    assert "Its outputs are farthest from float with hidden=[8]: agreement 99.00 %, SQNR 30.0 dB." in text
    assert "Most accurate" not in text


def test_a_sweep_of_float_models_compares_nothing() -> None:
    assert recommend(sweep(lone())) == ("Nothing to compare: only the float model was measured.")


def test_of_many_networks_that_lose_accuracy_those_that_lose_most_are_named() -> None:
    ones = [
        entry(
            method("static", correct=950 - width, gained=0, lost=28 + width, p_value=1e-6), model__hidden=f"[{width}]"
        )
        for width in range(10)
    ]
    text = recommend(sweep(*ones))
    assert "Significant loss of accuracy in 10 of 10: hidden=[9] (-3.70 points" in text
    assert "; and 4 others." in text
    assert "hidden=[3] (" not in text.partition("loss of accuracy")[2].partition(" others.")[0]
