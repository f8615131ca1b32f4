"""The networks. They know nothing of quantization.

A module a network, with the function `build(model, inputs, classes)`: fresh weights, drawn from torch's global
random state. What a network gives is one tensor, or something that holds it as `.logits` or first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantexp.config import Kind, Model, Taken, Task, no_pair
from quantexp.results import InputSpec
from quantexp.system.implementation import resolve

if TYPE_CHECKING:
    from torch import nn


def build(model: Model, inputs: Sequence[InputSpec], classes: int) -> nn.Module:
    """Build a network with fresh weights, which gives one tensor. Raises ConfigError if it takes no such inputs."""
    network: nn.Module = resolve(model.implementation).build(model, tuple(inputs), classes)
    return network


def check(model: Model) -> None:
    """Make sure, before torch is imported, that the code of a network is there. Raises ConfigError."""
    if model.takes is None:
        from quantexp.system import own_code

        own_code.check("model.target", str(getattr(model, "target", None)))


def source(model: Model) -> dict[str, str]:
    """Return what, beside the settings, tells that a network is the same: a digest of code that is not quantexp's."""
    return {} if model.takes is not None else {"source": resolve(model.implementation).source(model)}


def kind(task: Task, gives: Sequence[Kind], model: Model) -> Kind:
    """Return the kind of input that a network takes of those that a task gives.

    Raises:
        ConfigError: If it takes none of them.
    """
    from quantexp.system.errors import ConfigError

    takes: tuple[Taken, ...] = model.takes if model.takes is not None else resolve(model.implementation).takes(model)
    for taken in takes:
        if taken.kind in gives:
            return taken.kind
    raise ConfigError(no_pair(task.name, gives, model.name, [taken.kind for taken in takes]))
