"""State dicts as plain tensors, and how to read them safely."""
