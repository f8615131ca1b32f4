"""Experiment and every option: the schema that Hydra composes, light enough for `--help` (no torch)."""

from quantexp.config.benchmark import Benchmark, FloatModel, Lab, Paired
from quantexp.config.experiment import Experiment
from quantexp.config.model import Custom, Lenet5, Mlp, Model
from quantexp.config.option import Option, Settings
from quantexp.config.quant import (
    METHODS,
    Amp,
    Dynamic,
    Engine,
    Granularity,
    NoQuant,
    Observer,
    Qat,
    Quant,
    Start,
    Static,
)
from quantexp.config.study import STUDIES, Affine, Single, Study
from quantexp.config.sweep import Retry, Sweep
from quantexp.config.task import CalibrationSplit, DataRequest, Mnist, Source, Sst2, Task
from quantexp.config.tracking import Local, Server, Tracking
from quantexp.config.train import Device, Optimizer, Train

__all__ = [
    "METHODS",
    "STUDIES",
    "Affine",
    "Amp",
    "Benchmark",
    "CalibrationSplit",
    "Custom",
    "DataRequest",
    "Device",
    "Dynamic",
    "Engine",
    "Experiment",
    "FloatModel",
    "Granularity",
    "Lab",
    "Lenet5",
    "Local",
    "Mlp",
    "Mnist",
    "Model",
    "NoQuant",
    "Observer",
    "Optimizer",
    "Option",
    "Paired",
    "Qat",
    "Quant",
    "Retry",
    "Server",
    "Settings",
    "Single",
    "Source",
    "Sst2",
    "Start",
    "Static",
    "Study",
    "Sweep",
    "Task",
    "Tracking",
    "Train",
]
