"""The inputs of a network: one description for each input tensor. Does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

DTYPES = ("float32", "int64", "int32", "uint8", "bool")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a network, without the batch dimension: enough to make valid examples for any batch size.

    Attributes:
        name: The name of the input, such as "ids".
        shape: Its sizes; None for a length that varies from batch to batch.
        dtype: One of DTYPES.
        low, high: The smallest and the largest value. Integers lie in [low, high], such as token ids in the
            vocabulary; integers from 0 to 1 are a mask. For floats, None means that any finite value is valid.
        length: The length to measure with, where the shape has None.

    Raises:
        ValueError: If the fields contradict each other.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"the dtype of input {self.name} must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if any(size is not None and size < 1 for size in self.shape) or (self.length is not None and self.length < 1):
            raise ValueError(f"the sizes of input {self.name} must be at least 1, got {self.shape}, {self.length}")
        if None in self.shape and self.length is None:
            raise ValueError(
                f"input {self.name} has a length that varies, so `length` must give the length to measure with"
            )
        if not self.dtype.startswith("float") and self.dtype != "bool" and None in (self.low, self.high):
            raise ValueError(f"input {self.name} holds integers, so `low` and `high` must give their range")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low of input {self.name} must not be above high, got {self.low} and {self.high}")

    @property
    def measured(self) -> tuple[int, ...]:
        """The shape to measure with: `length` where the length varies."""
        return tuple(size if size is not None else int(self.length or 0) for size in self.shape)

    @property
    def values(self) -> int:
        """The number of values in an example of the measured shape."""
        return math.prod(self.measured)
