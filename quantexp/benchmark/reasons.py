"""Why a quantized model is not faster, as far as it can be told from what was seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantexp.results import Evidence, Profile, Speedup
from quantexp.system.environment import FOR_PRECISION

MULTIPLIERS = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "convolution",
    "mkldnn_convolution",
    "_slow_conv2d",
    "addmm",
    "mm",
    "bmm",
    "matmul",
    "_int_mm",
    "_weight_int4pack_mm_for_cpu",
    "_weight_int8pack_mm",
    "int4mm_packed_weight_cpu",
    "qlinear_pointwise",
    "qconv_pointwise",
    "_mkl_linear",
    "_linear_pointwise",
    "_convolution_pointwise",
    "_convolution_transpose_pointwise",
    "mkldnn_rnn_layer",
    "_scaled_dot_product_flash_attention_for_cpu",
)
POOLS = ("max_pool2d", "quantized_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d")
CONVERSIONS = ("quantize", "dequantize", "_to_copy", "copy_", "to", "choose_qparams")
FEW = 0.5  # of the time in matrix products and convolutions: the rest decides
MUCH = 0.2  # of the time in conversions, or in pooling
HOPELESS = 0.1  # as fast as float: no kernel that is made for speed does so badly


@dataclass(frozen=True)
class Setting:
    """What a model is timed with: the precision and the engine that it runs in, threads, and what the CPU has."""

    precision: str
    engine: str | None
    threads: int
    cores: int
    instruction_sets: Sequence[str]


def not_faster(
    evidence: Evidence, profile: Profile, setting: Setting, ratio: float, faster_at: Speedup | None = None
) -> tuple[str, ...]:
    """Return the reasons, the surest first; never none: that none is known is said too.

    `ratio` says how many times as fast as float the model is; `faster_at` is the speedup at a larger batch size, if
    the model is faster there.
    """
    found = []
    precision = setting.precision
    if setting.threads > setting.cores:
        found.append(f"{setting.threads} threads share {setting.cores} cores")
    lowered = evidence.mac_share(precision)
    if lowered < 0.995:
        names = ", ".join(one.name for one in evidence.left_in_float[:5])
        found.append(
            f"only {lowered:.0%} of the multiply-accumulates run in {precision}{f': {names} in float' * bool(names)}"
        )
    found += _instructions(precision, setting.instruction_sets)
    if setting.engine == "onednn" and ratio < HOPELESS:
        found.append(
            "oneDNN seems to lack a fast kernel for these layers and to take its reference kernel, as it does where "
            "the zero point of the inputs is not 0 (ONEDNN_VERBOSE=1 shows it): choose quant.engine=x86"
        )
    if setting.engine == "qnnpack":
        found.append("the kernels of qnnpack are made for ARM")
    products = _share(profile, MULTIPLIERS)
    conversions = _share(profile, CONVERSIONS)
    if conversions > MUCH:
        found.append(
            f"converting between precisions takes {conversions:.0%} of the time: it is not fused into the products"
        )
    if products < FEW:
        found.append(_rest(profile, products))
    elif faster_at:
        found.append(
            f"what each call adds to its products weighs too much here: at batch {faster_at.batch_size} it is "
            f"{faster_at.ratio:.1f}x as fast"
        )
    return tuple(found) or ("no reason is known",)


def _rest(profile: Profile, products: float) -> str:
    """Say what takes the time that products do not: pooling, which grows with the batch, or the overhead of calls."""
    pooling = _share(profile, POOLS)
    if pooling > MUCH:
        return f"only {products:.0%} of the time goes to matrix products, {pooling:.0%} to pooling, which has none"
    return (
        f"only {products:.0%} of the time goes to matrix products, the rest to the overhead of the calls, "
        "which weighs less in larger batches"
    )


def _instructions(precision: str, sets: Sequence[str]) -> list[str]:
    needed = FOR_PRECISION.get(precision, ())
    if not needed or not sets or set(needed) & set(sets):  # none at all: this system does not list them
        return []
    if precision == "int8":
        return ["this CPU has neither VNNI nor AMX: an int8 product takes several instructions"]
    return [f"this CPU has no instructions for {precision}: products are computed in fp32 after a conversion"]


def _share(profile: Profile, names: Sequence[str]) -> float:
    """Return the share of the operators of these names, or of such a name and a suffix: `linear`, `linear_relu`."""
    return sum(one.share for one in profile.shares if _is_one_of(one.operator.split("::")[-1].split(".")[0], names))


def _is_one_of(operator: str, names: Sequence[str]) -> bool:
    return operator in names or operator.startswith(tuple(f"{name}_" for name in names))
