"""Measuring: latency, accuracy with its interval, size. Always on the CPU."""
