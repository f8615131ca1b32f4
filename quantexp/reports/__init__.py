"""Rendering: tables, pictures, pages of runs and of sweeps. It computes nothing."""
