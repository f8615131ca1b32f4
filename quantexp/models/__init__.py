"""The networks. They are independent of quantization.

There is one module for each network, with the function `build(model, inputs, classes)`, which draws fresh weights from
torch's global random state. A network returns one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantexp.config import Bert, Kind, Model, Taken, Task, Transformers, Wav2Vec2, no_pair
from quantexp.models import folder
from quantexp.results import InputSpec
from quantexp.system.extras import require
from quantexp.system.implementation import resolve

if TYPE_CHECKING:
    from torch import nn


def build(model: Model, inputs: Sequence[InputSpec], classes: int) -> nn.Module:
    """Build a network with fresh weights. Raises ConfigError if it does not take these inputs."""
    network: nn.Module = resolve(model.implementation).build(model, tuple(inputs), classes)
    return network


def check(model: Model) -> None:
    """Check, without importing torch, that what a network is built from exists. Raises ConfigError."""
    if isinstance(model, Bert | Wav2Vec2 | Transformers):
        require("transformers", f"model={model.name}")
    if isinstance(model, Transformers):
        folder.check(model)
    if model.takes is None:
        from quantexp.system import own_code

        own_code.check("model.target", str(getattr(model, "target", None)))


def source(model: Model) -> dict[str, str]:
    """Return what identifies a network besides its settings: a digest of the user's code, or of the user's files."""
    if model.takes is None:
        return {"source": resolve(model.implementation).source(model)}
    if isinstance(model, Transformers):
        return {"path": folder.digest(model)}  # in place of the path itself
    return {}


def configuration(model: Model) -> str:
    """Return the configuration of Hugging Face that a network is built from; empty if it has none."""
    return folder.configuration(model) if isinstance(model, Transformers) else ""


def kind(task: Task, gives: Sequence[Kind], model: Model) -> Kind:
    """Return the first kind of input that the network takes and the task provides.

    Raises:
        ConfigError: If there is none.
    """
    from quantexp.system.errors import ConfigError

    takes: tuple[Taken, ...] = model.takes if model.takes is not None else resolve(model.implementation).takes(model)
    for taken in takes:
        if taken.kind in gives:
            return taken.kind
    raise ConfigError(no_pair(task.name, gives, model.name, [taken.kind for taken in takes]))
