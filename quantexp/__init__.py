"""quantexp: quantize a network, and measure on the CPU how much smaller, faster and less accurate it became.

The public API: an `Experiment` of options, `run` it, `load` the network of a recorded run. A script that trains calls
`share_cores` before it imports torch, as the command does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quantexp.system.openmp import share_cores
from quantexp.system.version import __version__

if TYPE_CHECKING:
    from quantexp.config import (
        Affine,
        Amp,
        Arrays,
        Audio,
        Compiled,
        CustomModel,
        CustomTask,
        Dynamic,
        Eager,
        Experiment,
        FakeQuant,
        Images,
        Lab,
        Lenet5,
        Local,
        Mlp,
        Mnist,
        NoQuant,
        Paired,
        Qat,
        Search,
        Sensitivity,
        Server,
        Single,
        Sst2,
        Static,
        Text,
        Train,
        WeightOnly,
    )
    from quantexp.results import InputSpec
    from quantexp.runner.load import load
    from quantexp.runner.single import run
    from quantexp.storage.prediction import Prediction, StoredModel
    from quantexp.system.errors import QuantexpError
    from quantexp.tasks.data import Split

_ELSEWHERE = {
    "InputSpec": "quantexp.results",
    "Prediction": "quantexp.storage.prediction",
    "QuantexpError": "quantexp.system.errors",
    "Split": "quantexp.tasks.data",
    "StoredModel": "quantexp.storage.prediction",
    "load": "quantexp.runner.load",
    "run": "quantexp.runner.single",
}  # the other names are those of options

__all__ = [
    "Affine",
    "Amp",
    "Arrays",
    "Audio",
    "Compiled",
    "CustomModel",
    "CustomTask",
    "Dynamic",
    "Eager",
    "Experiment",
    "FakeQuant",
    "Images",
    "InputSpec",
    "Lab",
    "Lenet5",
    "Local",
    "Mlp",
    "Mnist",
    "NoQuant",
    "Paired",
    "Prediction",
    "Qat",
    "QuantexpError",
    "Search",
    "Sensitivity",
    "Server",
    "Single",
    "Split",
    "Sst2",
    "Static",
    "StoredModel",
    "Text",
    "Train",
    "WeightOnly",
    "__version__",
    "load",
    "run",
    "share_cores",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, as `--help` must not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'quantexp' has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "quantexp.config")), name)
