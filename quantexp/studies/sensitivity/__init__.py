"""Each layer quantized alone, and all but it."""
