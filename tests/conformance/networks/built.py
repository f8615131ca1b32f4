"""Each network, built for the inputs that it takes."""

from __future__ import annotations

import functools

import torch
from torch import nn

from quantexp.results import InputSpec
from quantexp.tasks.inputs import Batch, examples
from tests import tokens
from tests.conformance.networks import NETWORKS

SIDE, CLASSES = 16, 10
FEATURES, IMAGE = (InputSpec("values", (SIDE**2,)),), (InputSpec("image", (1, SIDE, SIDE)),)


def inputs(network: str) -> tuple[InputSpec, ...]:
    """Return the specs of what a network takes."""
    kinds = getattr(NETWORKS[network], "takes", ("features",))
    return {"features": FEATURES, "image": IMAGE, "tokens": tokens.SPECS}[kinds[0]]


def example(network: str, count: int) -> Batch:
    """Return examples of what a network takes."""
    return examples(inputs(network), count)


@functools.cache
def built(network: str) -> nn.Module:
    """Return a network in evaluation mode, with weights of a fixed seed; nothing may change it."""
    kind, specs = NETWORKS[network], inputs(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = kind(specs if hasattr(kind, "takes") else specs[0].values, CLASSES)  # type: ignore[call-arg]
    return made.eval()
