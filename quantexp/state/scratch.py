"""Memory that the large parameters of a network share while only its structure is of use.

A stored network is rebuilt from a new float network, whose weights are random and are then filled, or quantized and
replaced. Each in memory of its own would take as much as the float network, for values that nothing reads.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.weak import WeakIdKeyDictionary

LARGE = 1 << 20  # elements
RANGE = 0.05  # of the values, until the layer draws its own


class Scratch:
    """A context in which large parameters of new modules of this thread share memory; `settle` ends it for a network.

    Their values are those of the parameter that was set last: finite, and as a rule not zero.
    """

    def __init__(self) -> None:
        self.lent = False  # whether any parameter shares memory
        self._memories: dict[int, Tensor] = {}  # by address, all that was lent: freed, it could become other tensors
        self._memory = torch.empty(0)  # the last and largest one
        self._replaced = WeakIdKeyDictionary()  # a parameter that is set twice stays one parameter

    def __enter__(self) -> Scratch:
        self._thread = threading.get_ident()  # torch calls the hook for the modules of all threads
        self._hook: Any = register_module_parameter_registration_hook(self._lend)  # type: ignore[arg-type]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hook.remove()

    def settle(self, network: nn.Module) -> None:
        """Give each tensor of `network` that lies in shared memory its own, with values that are not defined."""
        for module in network.modules():
            for parameter in module.parameters(recurse=False):
                if self._is_lent(parameter):
                    parameter.data = torch.empty_like(parameter)
            for name, value in [*module.named_buffers(recurse=False), *vars(module).items()]:
                if isinstance(value, Tensor) and self._is_lent(value):
                    setattr(module, name, torch.empty_like(value))
        self._memories, self._memory = {}, torch.empty(0)

    def _lend(self, module: nn.Module, name: str, parameter: Any) -> nn.Parameter | None:
        """Return what takes the place of a parameter that is set, None to leave it."""
        if threading.get_ident() != self._thread:
            return None
        if type(parameter) is not nn.Parameter or parameter.layout is not torch.strided or self._is_lent(parameter):
            return None
        if not parameter.is_contiguous():  # another order of the values gives other last bits
            return None
        if (parameter.dtype, parameter.device.type) != (torch.float32, "cpu") or parameter.numel() < LARGE:
            return None
        if parameter not in self._replaced:
            if self._memory.numel() < parameter.numel():
                self._memory = torch.empty(parameter.numel()).uniform_(-RANGE, RANGE)
                self._memories[self._memory.untyped_storage().data_ptr()] = self._memory
            shared = self._memory[: parameter.numel()].view(parameter.shape)
            self._replaced[parameter] = nn.Parameter(shared, parameter.requires_grad)
            self.lent = True
        replaced: nn.Parameter = self._replaced[parameter]
        return replaced

    def _is_lent(self, tensor: Tensor) -> bool:
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
        return plain and tensor.untyped_storage().data_ptr() in self._memories
