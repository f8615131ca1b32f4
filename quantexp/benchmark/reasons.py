"""The reasons why a quantized network is not faster, from its evidence and its profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantexp.results import Evidence, Profile, Speedup
from quantexp.results.text import mac_share_text
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
FEW = 0.5  # of the time in matrix products and convolutions: below, the rest dominates
MUCH = 0.2  # of the time in conversions, or in pooling
HOPELESS = 0.1  # speedup over float: an optimized kernel is never so slow


@dataclass(frozen=True)
class Setting:
    """The setting of a timing: precision and engine of the network, threads, cores, and instruction sets of the CPU."""

    precision: str
    engine: str | None
    threads: int
    cores: int
    instruction_sets: Sequence[str]


def not_faster(
    evidence: Evidence, profile: Profile, setting: Setting, ratio: float, faster_at: Speedup | None = None
) -> tuple[str, ...]:
    """Return the reasons, the most certain first, or "no reason is known".

    `ratio` is the speedup over float; `faster_at` is the speedup at a larger batch size, if the network is faster
    there.
    """
    found = []
    precision = setting.precision
    if setting.threads > setting.cores:
        found.append(f"{setting.threads} threads share {setting.cores} cores")
    quantized = evidence.mac_share(precision)
    if quantized is not None and quantized < 0.995:
        names = ", ".join(layer.name for layer in evidence.left_in_float[:5])
        found.append(
            f"only {mac_share_text(evidence, precision)} of the multiply-accumulates run in {precision}"
            f"{f': {names} in float' * bool(names)}"
        )
    found += _instructions(precision, setting.instruction_sets)
    if setting.engine == "onednn" and ratio < HOPELESS:
        found.append(
            "oneDNN seems to have no fast kernel for these layers and to use its reference kernel, as it does if "
            "the zero point of the inputs is not 0 (ONEDNN_VERBOSE=1 shows it): use quant.engine=x86"
        )
    if setting.engine == "qnnpack":
        found.append("the kernels of qnnpack are optimized for ARM")
    products = _share(profile, MULTIPLIERS)
    conversions = _share(profile, CONVERSIONS)
    if conversions > MUCH:
        found.append(f"conversions between precisions take {conversions:.0%} of the time, as they are not fused")
    if products < FEW:
        found.append(_rest(profile, products))
    elif faster_at:
        found.append(
            f"the overhead of each call is too large at this batch size: "
            f"at batch {faster_at.batch_size} the speedup is {faster_at.ratio:.1f}x"
        )
    return tuple(found) or ("no reason is known",)


def _rest(profile: Profile, products: float) -> str:
    """Return what takes the remaining time: pooling, which grows with the batch, or the overhead of calls."""
    pooling = _share(profile, POOLS)
    if pooling > MUCH:
        return f"only {products:.0%} of the time goes to matrix products, {pooling:.0%} to pooling, which is not faster"
    return (
        f"only {products:.0%} of the time goes to matrix products, the rest to the overhead of the calls, "
        "whose share is smaller in larger batches"
    )


def _instructions(precision: str, sets: Sequence[str]) -> list[str]:
    needed = FOR_PRECISION.get(precision, ())
    if not needed or not sets or set(needed) & set(sets):  # empty: this system does not list them
        return []
    if precision == "int8":
        return ["this CPU has neither VNNI nor AMX: an int8 product needs several instructions"]
    return [f"this CPU has no instructions for {precision}: products are computed in fp32 after a conversion"]


def _share(profile: Profile, names: Sequence[str]) -> float:
    """Return the share of operators with these names, or such a name and a suffix: `linear`, `linear_relu`."""
    prefixes = tuple(f"{name}_" for name in names)
    operators = ((entry.operator.split("::")[-1].split(".")[0], entry.share) for entry in profile.shares)
    return sum(share for operator, share in operators if operator in names or operator.startswith(prefixes))
