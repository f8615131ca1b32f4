"""Affine quantization in plain torch."""
