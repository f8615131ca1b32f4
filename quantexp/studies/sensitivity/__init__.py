"""Study: each layer quantized alone, and all layers but it."""
