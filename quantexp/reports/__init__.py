"""Rendering: tables, pictures and pages of runs and of sweeps. Computing is up to analysis."""
