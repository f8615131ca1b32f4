"""Networks with float32 inputs and outputs that compute in a smaller floating-point type."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantexp.quant.inspection.promise import Wrapper
from quantexp.tasks.inputs import cast


class Cast(Wrapper):
    """A network whose weights are stored and used in `dtype`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(model.to(dtype))
        self.dtype = dtype

    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.model(*cast(batch, self.dtype))
        return logits.float()


class Autocast(Wrapper):
    """A float32 network that runs under autocast: torch chooses the operators that compute in `dtype`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(model)
        self.dtype = dtype

    def forward(self, *batch: Tensor) -> Tensor:
        with torch.autocast("cpu", self.dtype):
            logits: Tensor = self.model(*batch)
        return logits.float()
