"""Float weights, freed one by one while torch.ao packs them.

torch.ao replaces the layers of a network when all of them are packed, and so holds the float and the int8 network at
the same time. A flow may change the network that it is given, and nothing reads a weight again that was packed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn.quantized.reference.modules.utils import ReferenceQuantizedModule
from torch.nn.modules.conv import _ConvNd

PACKED = (nn.Linear, _ConvNd)  # with one weight, of which the packed layer keeps nothing


@contextmanager
def releasing(model: nn.Module) -> Iterator[None]:
    """Let go of the weight of each layer of `model` when torch.ao has packed it.

    What else has the weight keeps it. A layer that several modules have is packed for each of them, so it stays.
    """
    parents = Counter(child for module in model.modules() for child in module._modules.values())

    def release(module: nn.Module) -> None:
        if parents[module] <= 1 and "weight" in module._parameters:
            module._parameters["weight"] = nn.Parameter(torch.empty(0), requires_grad=False)

    converting: Any = sys.modules[quantization.convert.__module__]  # a function of torch.ao has the name of this module
    reference: Any = ReferenceQuantizedModule
    swap, packed = converting.swap_module, reference.get_quantized_weight

    def swapped(module: nn.Module, *given: Any, **named: Any) -> nn.Module:
        made: nn.Module = swap(module, *given, **named)
        for part in module.modules() if made is not module else ():
            if isinstance(part, PACKED):
                release(part)
        return made

    def get_quantized_weight(module: Any) -> Tensor:
        found: Tensor = packed(module)
        if isinstance(module, PACKED):
            release(module)
        return found

    converting.swap_module, reference.get_quantized_weight = swapped, get_quantized_weight
    try:
        yield
    finally:
        converting.swap_module, reference.get_quantized_weight = swap, packed
