from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from quantexp.benchmark.grouped import Convolution
from quantexp.benchmark.reasons import Setting, not_faster
from quantexp.results import Account, Evidence, LeftInFloat, Operator, Profile, Speedup
from tests.builders import profile, speedup

NONE_KNOWN = ("no reason is known",)
VNNI = ("avx2", "avx512_vnni")


def ran(**macs: int) -> Evidence:
    """Operators that ran, a precision and its multiply-accumulates each."""
    return Evidence((), tuple(Operator("linear", name, 1, count) for name, count in macs.items()), ())


def told(
    evidence: Evidence | None = None,
    shares: dict[str, float] | None = None,
    ratio: float = 0.9,
    faster_at: Speedup | None = None,
    slow: Sequence[Convolution] = (),
    **changes: Any,
) -> tuple[str, ...]:
    """The reasons of an int8 model that ought to be faster, but for what is changed."""
    of_products = profile(1, shares or {"quantized::linear_relu": 0.8, "aten::relu": 0.2})
    setting = replace(Setting("int8", "x86", threads=1, cores=2, instruction_sets=VNNI), **changes)
    return not_faster(evidence or ran(int8=100), of_products, setting, ratio, faster_at, slow)


def test_where_nothing_speaks_against_it_no_reason_is_known() -> None:
    assert told() == NONE_KNOWN


def test_what_is_faster_in_larger_batches_is_held_back_by_what_each_call_adds() -> None:
    assert told(faster_at=speedup(64, 4.26)) == (
        "the overhead of each call is too large at this batch size: at batch 64 the speedup is 4.3x",
    )
    overhead = told(shares={"aten::relu": 0.9, "quantized::linear": 0.1}, faster_at=speedup(64, 4.26))
    assert len(overhead) == 1  # it is told once: by the profile, where that shows it
    assert overhead[0].startswith("only 10% of the time goes to matrix products")


def test_more_threads_than_cores_are_a_reason() -> None:
    assert told(threads=4, cores=2) == ("4 threads share 2 cores",)
    assert told(threads=2, cores=2) == NONE_KNOWN


def test_work_that_is_left_in_float_is_a_reason_that_names_the_layers() -> None:
    left = tuple(LeftInFloat(f"layers.{index}", "no kernel") for index in range(7))
    part = ran(int8=60, fp32=40)
    assert told(part) == ("only 60% of the multiply-accumulates run in int8",)
    named = Evidence((), part.operators, left)
    (reason,) = told(named)
    assert reason == (
        "only 60% of the multiply-accumulates run in int8: layers.0, layers.1, layers.2, layers.3, layers.4 in float"
    )


def test_a_trifle_that_is_left_in_float_is_no_reason() -> None:
    assert told(ran(int8=996, fp32=4)) == NONE_KNOWN
    assert told(ran(int8=990, fp32=10)) == ("only 99% of the multiply-accumulates run in int8",)


def test_a_share_that_is_unknown_is_no_reason() -> None:
    assert told(replace(ran(int8=10), account=Account(100, ("my.op",)))) == NONE_KNOWN


def test_the_precision_that_counts_is_the_one_that_was_promised() -> None:
    assert told(ran(bf16=100), precision="bf16", instruction_sets=("amx_bf16",)) == NONE_KNOWN
    (reason,) = told(ran(fp32=100), precision="bf16", instruction_sets=("amx_bf16",))
    assert reason == "only 0% of the multiply-accumulates run in bf16"


@pytest.mark.parametrize(
    ("precision", "sets", "lacks"),
    [
        ("int8", ("avx2", "fma", "avx512f"), "this CPU has neither VNNI nor AMX"),
        ("int8", ("avx512_bf16", "amx_bf16"), "this CPU has neither VNNI nor AMX"),
        ("bf16", ("avx2", "avx512_vnni", "amx_int8"), "this CPU has no instructions for bf16"),
        ("fp16", ("avx2", "avx512_bf16"), "this CPU has no instructions for fp16"),
    ],
)
def test_a_cpu_without_instructions_for_the_precision_is_a_reason(
    precision: str, sets: tuple[str, ...], lacks: str
) -> None:
    (reason,) = told(ran(**{precision: 100}), precision=precision, instruction_sets=sets)
    assert reason.startswith(lacks)


@pytest.mark.parametrize(
    ("precision", "has"),
    [
        *(("int8", name) for name in ("avx_vnni", "avx512_vnni", "amx_int8")),
        *(("bf16", name) for name in ("avx512_bf16", "amx_bf16")),
        *(("fp16", name) for name in ("avx512_fp16", "amx_fp16")),
    ],
)
def test_one_instruction_set_for_the_precision_is_enough(precision: str, has: str) -> None:
    assert told(ran(**{precision: 100}), precision=precision, instruction_sets=("avx2", has)) == NONE_KNOWN


def test_the_kernels_of_qnnpack_are_a_reason_here_and_those_of_other_engines_are_not() -> None:
    assert told(engine="qnnpack") == ("the kernels of qnnpack are optimized for ARM",)
    for engine in ("x86", "fbgemm", "onednn", None):
        assert told(engine=engine) == NONE_KNOWN


def test_converting_between_precisions_is_a_reason_if_it_takes_more_than_a_fifth_of_the_time() -> None:
    shares = {"quantized::linear": 0.6, "aten::quantize_per_tensor": 0.15, "aten::dequantize": 0.1}
    (reason,) = told(shares=shares)
    assert reason.startswith("conversions between precisions take 25% of the time")
    assert told(shares=shares | {"aten::dequantize": 0.04}) == NONE_KNOWN


@pytest.mark.parametrize("name", ["aten::quantize_per_tensor", "aten::dequantize", "aten::_to_copy", "aten::to"])
def test_what_converts_is_known_by_its_operator(name: str) -> None:
    (reason,) = told(shares={"aten::addmm": 0.7, name: 0.3})
    assert "conversions" in reason


def test_an_operator_whose_name_only_begins_like_a_conversion_converts_nothing() -> None:
    assert told(shares={"aten::addmm": 0.7, "aten::topk": 0.3}) == NONE_KNOWN


def test_time_that_does_not_go_to_products_is_a_reason_if_it_is_more_than_half() -> None:
    shares = {"quantized::linear_relu": 0.3, "quantized::linear": 0.15, "aten::empty": 0.4, "aten::relu": 0.15}
    (reason,) = told(shares=shares)
    assert reason.startswith("only 45% of the time goes to matrix products, the rest to the overhead of the calls")
    assert told(shares={"quantized::linear_relu": 0.5, "aten::empty": 0.5}) == NONE_KNOWN


@pytest.mark.parametrize(
    "name",
    [
        *("quantized::linear", "quantized::linear_relu", "quantized::linear_dynamic", "quantized::conv2d.new"),
        *("aten::addmm", "aten::mm", "aten::bmm", "aten::mkldnn_convolution", "aten::convolution", "aten::linear"),
        *("quantized::conv2d_relu", "aten::_slow_conv2d_forward"),
    ],
)
def test_what_multiplies_is_known_by_its_operator(name: str) -> None:
    assert told(shares={name: 0.9, "aten::relu": 0.1}) == NONE_KNOWN


def test_what_the_evidence_knows_to_multiply_does_so_in_the_profile_of_any_runtime() -> None:
    shares = {"DynamicQuantizeMatMul": 0.9, "Relu": 0.1}
    assert "only 0% of the time goes to matrix products" in told(shares=shares)[0]
    evidence = Evidence((), (Operator("DynamicQuantizeMatMul", "int8", 1, 100),), ())
    assert told(evidence, shares=shares) == NONE_KNOWN


def test_a_profile_that_tells_nothing_is_no_reason() -> None:
    setting = Setting("int8", "x86", threads=1, cores=2, instruction_sets=VNNI)
    assert not_faster(ran(int8=100), Profile(1, ()), setting, 0.9) == NONE_KNOWN


@pytest.mark.parametrize("name", ["aten::max_pool2d_with_indices", "aten::quantized_max_pool2d", "aten::avg_pool2d"])
def test_time_that_goes_to_pooling_is_no_overhead_of_calls(name: str) -> None:
    (reason,) = told(shares={"quantized::conv2d_relu": 0.42, name: 0.5, "aten::empty": 0.08})
    assert reason == "only 42% of the time goes to matrix products, 50% to pooling, which is not faster"
    assert told(shares={"quantized::conv2d_relu": 0.5, name: 0.5}) == NONE_KNOWN
    (reason,) = told(shares={"quantized::conv2d_relu": 0.42, name: 0.2, "aten::empty": 0.38})
    assert "the overhead of the calls" in reason


def test_reasons_stand_side_by_side_the_surest_first() -> None:
    evidence = ran(int8=50, fp32=50)
    shares = {"quantized::linear": 0.3, "aten::quantize_per_tensor": 0.3, "aten::empty": 0.4}
    found = told(evidence, shares, threads=8, engine="qnnpack", instruction_sets=("avx2",))
    begins = ["8 threads share", "only 50% of the multiply", "this CPU has neither", "the kernels of qnnpack"]
    begins += ["conversions between precisions take 30%", "only 30% of the time goes to matrix products"]
    assert len(found) == len(begins)
    assert all(reason.startswith(begin) for reason, begin in zip(found, begins, strict=True))


def test_onednn_that_is_far_slower_than_float_is_told_with_an_engine_that_is_not() -> None:
    (reason,) = told(engine="onednn", ratio=0.02)
    assert "reference kernel" in reason
    assert "quant.engine=x86" in reason
    assert told(engine="onednn", ratio=0.9) == told(engine="x86", ratio=0.02) == NONE_KNOWN


SLOW = tuple(Convolution(f"blocks.{at}", 32, 32, 32, (3, 3), (0, 0), (1, 1), (1, 1)) for at in range(6))
IN_CONVOLUTIONS = {"quantized::conv2d_relu": 0.6, "quantized::conv2d": 0.37, "aten::constant_pad_nd": 0.03}


def test_convolutions_whose_padding_stands_outside_are_named_with_the_repair() -> None:
    assert told(shares=IN_CONVOLUTIONS, slow=SLOW) == (
        "int8 convolutions take 97% of the time; x86 has fast kernels for convolutions in groups only with a padding "
        "of half the kernel size inside the convolution, which these do not have: blocks.0 (3x3, padding 0x0, stride "
        "1x1, 32 channels in 32 groups), blocks.1, blocks.2, blocks.3 and 2 others; move a symmetric padding that "
        "stands before them into them",
    )


def test_convolutions_without_a_fast_kernel_for_another_reason_are_kept_in_float() -> None:
    odd = replace(SLOW[0], channels=36, outputs=36, groups=36, dilation=(2, 2))
    reasons = told(shares=IN_CONVOLUTIONS, slow=[SLOW[1], odd])
    assert len(reasons) == 2
    assert "do not have: blocks.1 (" in reasons[0]
    assert (
        "which these are not: blocks.0 (3x3, padding 0x0, stride 1x1, dilation 2x2, 36 channels in 36 groups)"
        in reasons[1]
    )
    assert reasons[1].endswith("keep them in float with quant.exclude")


def test_convolutions_that_take_little_time_are_no_reason() -> None:
    assert told(shares={"quantized::linear": 0.9, "quantized::conv2d": 0.1}, slow=SLOW) == NONE_KNOWN
