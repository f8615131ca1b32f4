"""The reasons why a quantized network is not faster, from its evidence and its profile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantexp.benchmark.grouped import Convolution
from quantexp.results import Evidence, Profile, Speedup
from quantexp.results.text import listed, mac_share_text
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
    "quantized_lstm",
    "quantized_gru",
    "quantized_lstm_cell_dynamic",
    "quantized_gru_cell_dynamic",
    "lstm",
    "gru",
    "_scaled_dot_product_flash_attention_for_cpu",
    *("FullyConnected", "FullyConnectedQuantized", "FullyConnectedQuantizedLegacy", "FullyConnectedCompressed"),
    *("MatMul", "Convolution", "Deconvolution", "RNNSeq", "RNNCell"),  # of OpenVINO
)
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
POOLS = ("max_pool2d", "quantized_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d")
CONVERSIONS = ("quantize", "dequantize", "_to_copy", "copy_", "to", "choose_qparams")
FEW = 0.5  # of the time in matrix products and convolutions: below, the rest dominates
MUCH = 0.2  # of the time in conversions, in pooling, or in convolutions
NAMED = 5  # layers in a reason
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
    evidence: Evidence,
    profile: Profile,
    setting: Setting,
    ratio: float,
    faster_at: Speedup | None = None,
    slow: Sequence[Convolution] = (),
) -> tuple[str, ...]:
    """Return the reasons, the most certain first, or "no reason is known".

    Args:
        evidence: Of the quantized network.
        profile: Where its time goes.
        setting: Of the timing.
        ratio: The speedup over float.
        faster_at: The speedup at a larger batch size, if the network is faster there.
        slow: Its convolutions without a fast kernel.
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
    found += _without_fast_kernel(slow, setting.engine, _share(profile, CONVOLUTIONS))
    found += _instructions(precision, setting.instruction_sets)
    if setting.engine == "onednn" and ratio < HOPELESS:
        found.append(
            "oneDNN seems to have no fast kernel for these layers and to use its reference kernel, as it does if "
            "the zero point of the inputs is not 0 (ONEDNN_VERBOSE=1 shows it): use quant.engine=x86"
        )
    if setting.engine == "qnnpack":
        found.append("the kernels of qnnpack are optimized for ARM")
    products = _share(profile, (*MULTIPLIERS, *(_short(operator.name) for operator in evidence.operators)))
    conversions = _share(profile, CONVERSIONS)
    if conversions > MUCH:
        found.append(f"conversions between precisions take {conversions:.0%} of the time, as they are not fused")
    if products < FEW and profile.shares:  # which a runtime may not tell
        found.append(_rest(profile, products))
    elif faster_at:
        found.append(
            f"the overhead of each call is too large at this batch size: "
            f"at batch {faster_at.batch_size} the speedup is {faster_at.ratio:.1f}x"
        )
    return tuple(found) or ("no reason is known",)


def _without_fast_kernel(slow: Sequence[Convolution], engine: str | None, share: float) -> Iterator[str]:
    """Yield the convolutions without a fast kernel, those whose padding is the cause apart, if they can matter."""
    if share <= MUCH:
        return
    outside = [one for one in slow if not one.inside.is_slow]
    others = [one for one in slow if one.inside.is_slow]
    took = f"int8 convolutions take {share:.0%} of the time"
    if outside:
        yield (
            f"{took}; {engine} has fast kernels for convolutions in groups only with a padding of half the kernel size "
            f"inside the convolution, which these do not have: {_shown(outside)}; move a symmetric padding that stands "
            "before them into them"
        )
    if others:
        yield (
            f"{took}; {engine} has fast kernels only for depthwise convolutions of 3x3, 5x5 or 7x7 with stride 1 or 2, "
            "no dilation and a multiple of 8 channels, or of 3x3 with 2, 4, 8 or 16 channels in a group, which these "
            f"are not: {_shown(others)}; keep them in float with quant.exclude"
        )


def _shown(convolutions: Sequence[Convolution]) -> str:
    """Return names with the settings of the first: `a (3x3, padding 0x0, stride 1x1, 8 channels in 8 groups) and b`."""
    first = convolutions[0]
    kernel, padding, stride, dilation = (
        "x".join(map(str, values)) for values in (first.kernel, first.padding, first.stride, first.dilation)
    )
    kind = "transposed " if first.transposed else ""
    spread = "" if set(first.dilation) == {1} else f", dilation {dilation}"
    sizes = f"{first.channels} channels in {first.groups} groups"
    described = f"{kind}{kernel}, padding {padding}, stride {stride}{spread}, {sizes}"
    return listed([f"{first.name} ({described})", *(one.name for one in convolutions[1:])], NAMED)


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


def _short(operator: str) -> str:
    """Return the name of an operator without namespace and overload: `linear` of `aten::linear.out`."""
    return operator.split("::")[-1].split(".")[0]


def _share(profile: Profile, names: Sequence[str]) -> float:
    """Return the share of operators with these names, or such a name and a suffix: `linear`, `linear_relu`."""
    prefixes = tuple(f"{name}_" for name in names)
    operators = ((_short(entry.operator), entry.share) for entry in profile.shares)
    return sum(share for operator, share in operators if operator in names or operator.startswith(prefixes))
