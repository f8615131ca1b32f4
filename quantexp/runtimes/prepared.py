"""A network that is prepared for a runtime: what the measurement needs of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from quantexp.quant.inspection import evidence
from quantexp.results import Operator, Profile
from quantexp.tasks.inputs import Batch, size


class Prepared(ABC):
    """A network that is prepared for a runtime. What is defined here holds for a runtime of torch.

    Attributes:
        network: Called as `network(*batch)` in inference mode, on tensors made in it; returns a tensor.
        batch_size: The only batch size that it accepts; None for any.
        seconds: The time of the preparation, None if there is nothing to prepare.
        max_difference: The largest difference of its outputs from those of the network as it was given; None if equal.
        own_threads: Whether the runtime computes with a pool of threads of its own.
        exported: The file that the runtime executes, None if it executes the network as it is.
        in_float: Why layers with quantized weights run in float in this runtime, by the name of the layer.
    """

    network: Callable[..., Any]
    batch_size: int | None = None
    seconds: float | None = None
    max_difference: float | None = None
    own_threads: bool = False
    exported: bytes | None = None
    in_float: Mapping[str, str] = {}

    @property
    def call(self) -> Callable[..., Any]:
        """The network as a program that uses this runtime calls it: `call(*given(batch))`."""
        return self.network

    def of_any_size(self, *batch: Tensor) -> Tensor:
        """Return the outputs for a batch of any size: it is split, and the rows of its last part are repeated."""
        fixed, count = self.batch_size, size(batch)
        if fixed in (None, count):
            whole: Tensor = self.network(*batch)
            return whole
        parts = zip(*(torch.split(tensor, fixed or count) for tensor in batch), strict=True)
        return torch.cat([self._filled(part) for part in parts])

    def _filled(self, part: Batch) -> Tensor:
        count = size(part)
        filled = tuple(tensor[torch.arange(self.batch_size or count) % count] for tensor in part)
        outputs: Tensor = self.network(*filled)[:count]
        return outputs.clone()  # the next call may write into the same memory

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
