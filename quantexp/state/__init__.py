"""State dicts as plain tensors, and safe readers of them."""
