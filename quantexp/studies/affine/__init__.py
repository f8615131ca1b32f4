"""The arithmetic itself, on a tensor of normal values."""
