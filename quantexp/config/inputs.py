"""The kinds of input that a task gives and a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a batch is made of; the first dimension of every tensor is that of the examples."""

    features = "features"  # one tensor, (values,)
    image = "image"  # one tensor, (channels, height, width)
    sequence = "sequence"  # one tensor, (length, values)
    tokens = "tokens"  # two tensors, ids int64 and mask, (length,) each
    waveform = "waveform"  # one tensor, (samples,)


@dataclass(frozen=True)
class Taken:
    """A kind of input that a network takes.

    `size` is the side of its images in pixels, `channels` their number of channels, None where any will do;
    `usual_size` is the side that they get if no other is chosen, None for the usual one of the task.
    """

    kind: Kind
    size: int | None = None
    channels: int | None = None
    usual_size: int | None = None
