"""Quantization: methods stand on flows, flows on inspection, inspection on arithmetic."""
