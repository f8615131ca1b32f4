"""Intervals, paired tests and signal-to-noise ratios."""
