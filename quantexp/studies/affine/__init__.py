"""Study: affine quantization of a tensor of normal values."""
