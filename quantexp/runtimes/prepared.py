"""A network that is prepared for a runtime: what the measurement needs of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from quantexp.quant.inspection import evidence
from quantexp.results import Operator, Profile
from quantexp.tasks.inputs import Batch


class Prepared(ABC):
    """A network that is prepared for a runtime. What is defined here holds for a runtime of torch.

    Attributes:
        network: Called as `network(*batch)` in inference mode, on tensors made in it; returns a tensor.
        batch_size: The only batch size that it accepts; None for any.
        seconds: The time of the preparation, None if there is nothing to prepare.
        max_difference: The largest difference of its outputs from those of the network as it was given; None if equal.
        exported: The file that the runtime executes, None if it executes the network as it is.
        in_float: Why layers with quantized weights run in float in this runtime, by the name of the layer.
    """

    network: Callable[..., Any]
    batch_size: int | None = None
    seconds: float | None = None
    max_difference: float | None = None
    exported: bytes | None = None
    in_float: Mapping[str, str] = {}

    @property
    def call(self) -> Callable[..., Any]:
        """The network as a program that uses this runtime calls it: `call(*given(batch))`."""
        return self.network

    def given(self, batch: Batch) -> tuple[Any, ...]:
        """Return a batch in the form that the runtime takes."""
        return batch

    @abstractmethod
    def copied(self) -> Callable[..., Any]:
        """Return what `call` is, with its weights at other addresses in memory."""

    @abstractmethod
    def operators(self) -> tuple[Operator, ...]:
        """Return the multiplying operators that run on a batch like the one it was prepared with."""

    def profile(self, batch: Batch) -> Profile:
        """Return the shares of the time of a forward pass on `batch`; the caller sets the threads first."""
        return evidence.profile(self.network, batch)
