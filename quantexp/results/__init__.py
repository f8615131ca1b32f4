"""The results of a run: frozen dataclasses, a unit in every name, shares and accuracy in [0, 1]."""

from quantexp.results.checks import Finding
from quantexp.results.comparison import (
    Comparison,
    EnergyRatio,
    NotFaster,
    OtherFloat,
    OtherQuantized,
    QualityChange,
    Speedup,
)
from quantexp.results.evidence import Account, Evidence, Layer, LayerLoss, LeftInFloat, Operator, Profile, TimeShare
from quantexp.results.inputs import InputSpec
from quantexp.results.measured import (
    Conditions,
    Ended,
    Energy,
    Latency,
    Measured,
    Quality,
    Resources,
    Size,
    Training,
)
from quantexp.results.report import Data, Report, parse_report

__all__ = [
    "Account",
    "Comparison",
    "Conditions",
    "Data",
    "Ended",
    "Energy",
    "EnergyRatio",
    "Evidence",
    "Finding",
    "InputSpec",
    "Latency",
    "Layer",
    "LayerLoss",
    "LeftInFloat",
    "Measured",
    "NotFaster",
    "Operator",
    "OtherFloat",
    "OtherQuantized",
    "Profile",
    "Quality",
    "QualityChange",
    "Report",
    "Resources",
    "Size",
    "Speedup",
    "TimeShare",
    "Training",
    "parse_report",
]
