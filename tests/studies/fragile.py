"""A network with one layer that int8 destroys, which studies must find."""

from __future__ import annotations

from typing import Any

from quantexp.config import Experiment
from quantexp.mission import load
from quantexp.training.baseline import trained


def fragile(experiment: Experiment, layer: int) -> dict[str, Any]:
    """Return the trained weights, with one that makes int8 per tensor round all others of a layer to zero.

    The hidden unit before it never fires, so that the float model computes the same whatever the weight is.
    """
    model = trained(experiment, load(experiment)).model
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    weights[f"layers.{layer - 2}.weight"][0] = 0
    weights[f"layers.{layer - 2}.bias"][0] = -1
    weights[f"layers.{layer}.weight"][:, 0] = 0
    weights[f"layers.{layer}.weight"][0, 0] = 1000 * weights[f"layers.{layer}.weight"].abs().max()
    return weights
