"""Experiment and every option: the schema that Hydra composes, light enough for `--help` (no torch)."""

from quantexp.config.benchmark import Benchmark, FloatModel, Lab, Paired
from quantexp.config.experiment import Experiment
from quantexp.config.levers import OVER_TORCH_AO, Engine, Flow, Granularity, Observer, Scheme, Start
from quantexp.config.model import Custom, Lenet5, Mlp, Model
from quantexp.config.option import Option, Settings
from quantexp.config.quant import (
    METHODS,
    Amp,
    ByLayer,
    Dynamic,
    FakeQuant,
    NoQuant,
    Qat,
    Quant,
    Selective,
    Static,
    WeightOnly,
)
from quantexp.config.study import STUDIES, Affine, Objective, Search, Sensitivity, Single, Study
from quantexp.config.sweep import Retry, Sweep, Unsupported
from quantexp.config.task import CalibrationSplit, DataRequest, EvaluationSplit, Mnist, Source, Sst2, Task
from quantexp.config.tracking import Local, Server, Tracking
from quantexp.config.train import Device, Optimizer, Train

OPTIONS: tuple[type[Option], ...] = (
    *(Mnist, Sst2, Mlp, Lenet5, Custom, *METHODS, Train, Paired, Lab, Local, Server, *STUDIES),
)

__all__ = [
    "METHODS",
    "OPTIONS",
    "OVER_TORCH_AO",
    "STUDIES",
    "Affine",
    "Amp",
    "Benchmark",
    "ByLayer",
    "CalibrationSplit",
    "Custom",
    "DataRequest",
    "Device",
    "Dynamic",
    "Engine",
    "EvaluationSplit",
    "Experiment",
    "FakeQuant",
    "FloatModel",
    "Flow",
    "Granularity",
    "Lab",
    "Lenet5",
    "Local",
    "Mlp",
    "Mnist",
    "Model",
    "NoQuant",
    "Objective",
    "Observer",
    "Optimizer",
    "Option",
    "Paired",
    "Qat",
    "Quant",
    "Retry",
    "Scheme",
    "Search",
    "Selective",
    "Sensitivity",
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
    "Unsupported",
    "WeightOnly",
]
