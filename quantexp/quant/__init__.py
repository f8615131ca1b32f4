"""Quantization, in layers: methods use flows, flows use inspection, inspection uses arithmetic."""
