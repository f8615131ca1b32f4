"""The size of a model, as the lab measures it."""

from __future__ import annotations

import io

import torch
from torch import nn


def state_bytes(model: nn.Module) -> int:
    """Return the bytes of the file that `torch.save(model.state_dict())` writes."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getbuffer().nbytes
