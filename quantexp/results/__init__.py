"""The results of a run: frozen dataclasses, a unit in every name, shares and accuracy in [0, 1]."""

from quantexp.results.comparison import Comparison, Compiled, NotFaster, Speedup, won_and_lost
from quantexp.results.evidence import Evidence, Layer, LayerLoss, LeftInFloat, Operator, Profile, TimeShare
from quantexp.results.measured import Accuracy, Conditions, Latency, Measured, Size, Training
from quantexp.results.report import Data, Report, parse_report

__all__ = [
    "Accuracy",
    "Comparison",
    "Compiled",
    "Conditions",
    "Data",
    "Evidence",
    "Latency",
    "Layer",
    "LayerLoss",
    "LeftInFloat",
    "Measured",
    "NotFaster",
    "Operator",
    "Profile",
    "Report",
    "Size",
    "Speedup",
    "TimeShare",
    "Training",
    "parse_report",
    "won_and_lost",
]
