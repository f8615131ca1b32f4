"""A network as it is exported: with one tensor as its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Network(nn.Module):
    """A network whose output is one tensor, under a name of our own."""

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network

    def forward(self, *batch: Tensor) -> Tensor:
        output: Tensor = self.network(*batch)
        return output
