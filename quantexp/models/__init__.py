"""The networks. They know nothing of quantization."""
