"""The operators that multiply no values with weights and sum no products.

torch's tags tell most of them; the others are listed. An operator that is on no list may multiply.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._ops import OpOverload

MOVED = """
    _chunk_cat _coalesce _coalesced _convert_indices_from_coo_to_csr _convert_indices_from_csr_to_coo _index_put_impl
    _jagged_to_padded_dense_forward _lazy_clone _mkldnn_reshape _mkldnn_transpose _nested_from_padded
    _nested_from_padded_and_nested_example _nested_tensor_from_mask _nested_tensor_from_tensor_list
    _pack_padded_sequence _padded_dense_to_jagged_forward _pad_packed_sequence _pin_memory _reshape_copy _resize_output
    _stack _to_copy _to_dense _to_sparse _to_sparse_bsc _to_sparse_bsr _to_sparse_csc _to_sparse_csr _unsafe_index
    _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view as_strided
    as_strided_scatter block_diag cat channel_shuffle col2im complex constant_pad_nd copy copy_sparse_to_sparse detach
    diag_embed diagonal_scatter embedding embedding_renorm fill flip gather im2col index index_add index_copy index_fill
    index_put index_reduce index_select lift lift_fresh masked_fill masked_scatter masked_select max_unpool2d
    max_unpool3d mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight nonzero nonzero_static pixel_shuffle
    pixel_unshuffle put reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d
    replication_pad2d replication_pad3d resize resize_as roll rot90 scatter scatter_add scatter_reduce select_scatter
    set slice_scatter sparse_compressed_tensor sparse_mask split_with_sizes squeeze stack t take to_mkldnn
    to_padded_tensor transpose tril triu unsafe_split unsafe_split_with_sizes unsqueeze zero
"""
MADE = """
    bernoulli binomial cauchy empty_like exponential full_like geometric linspace log_normal logspace multinomial
    new_empty new_empty_strided new_full new_ones new_zeros normal normal_functional ones_like poisson rand_like
    randint_like randn_like random uniform zeros_like _sample_dirichlet _standard_gamma
"""
NORMALISED = """
    _batch_norm_no_update _batch_norm_with_update _fused_rms_norm _log_softmax _masked_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _safe_softmax _softmax _sparse_log_softmax _sparse_softmax
    _transform_bias_rescale_qkv _weight_norm_interface batch_norm_update_stats native_batch_norm native_dropout
    native_group_norm native_layer_norm native_norm renorm
"""
POOLED = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _embedding_bag _embedding_bag_forward_only _grid_sampler_2d_cpu_fallback
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d
    avg_pool3d fractional_max_pool2d fractional_max_pool3d grid_sampler_2d grid_sampler_3d max_pool2d_with_indices
    max_pool3d_with_indices mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d mkldnn_max_pool3d quantized_max_pool1d
    quantized_max_pool2d quantized_max_pool3d segment_reduce upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
"""
POINTWISE = """
    _add_relu _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_tensor_affine
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _make_per_channel_quantized_tensor
    _make_per_tensor_quantized_tensor _prelu_kernel _thnn_fused_gru_cell _thnn_fused_lstm_cell abs copysign
    dequantize eq fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask floor_divide ge
    gelu glu gt hardswish heaviside int_repr le linalg_cross log_sigmoid_forward lt mish ne polar quantize_per_channel
    quantize_per_tensor quantize_per_tensor_dynamic quantized_batch_norm rrelu_with_noise rsub threshold xlogy
    binary_cross_entropy binary_cross_entropy_with_logits huber_loss mse_loss multi_margin_loss
    multilabel_margin_loss_forward nll_loss2d_forward nll_loss_forward smooth_l1_loss soft_margin_loss _ctc_loss
"""
SEARCHED = """
    _aminmax _assert_async _assert_tensor_metadata _cummax_helper _cummin_helper _functional_assert_async
    _has_same_storage_numel _histogramdd_bin_edges _histogramdd_from_bin_cts _histogramdd_from_bin_tensors _is_all_true
    _is_any_true _local_scalar_dense _logcumsumexp _nested_tensor_size _nested_tensor_storage_offsets
    _nested_tensor_strides _sparse_sum _unique _unique2 allclose bincount bucketize cummax cummin cumprod cumsum
    dense_dim dist equal histc histogram is_coalesced is_contiguous is_pinned is_same_size is_set_to isin item kthvalue
    logcumsumexp median mode nanmedian q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale
    q_zero_point qscheme searchsorted size sort sparse_dim stride numel dim storage_offset topk trace unique_consecutive
    unique_dim unique_dim_consecutive _nnz _dimI _dimV _indices _values indices values crow_indices col_indices
    sum mean prod amax amin max min std var std_mean var_mean logsumexp norm nansum all any argmax argmin count_nonzero
    linalg_vector_norm
"""
LISTED = frozenset((MOVED + MADE + NORMALISED + POOLED + POINTWISE + SEARCHED).split())
OTHERS = frozenset({"torchvision::nms", "torchvision::roi_align", "torchvision::roi_pool"})
TAGS = {torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.view_copy, torch.Tag.inplace_view}


@functools.cache
def multiplies_nothing(func: Any) -> bool:
    """Return whether an operator is known to compute no products: it moves, makes, selects, scales or sums values."""
    if not isinstance(func, OpOverload):
        return False
    if func.is_view or TAGS & set(func.tags) or func.namespace in ("prim", "profiler", "quantized_decomposed"):
        return True
    namespace, _, name = func._schema.name.partition("::")
    plain = name.rstrip("_")
    return (
        namespace == "aten" and (plain in LISTED or plain.startswith("_foreach_"))
    ) or f"{namespace}::{name}" in OTHERS
