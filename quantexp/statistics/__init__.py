"""Confidence intervals, paired tests and signal-to-noise ratios."""
