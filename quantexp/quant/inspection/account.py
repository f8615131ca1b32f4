"""The account: the multiply-accumulates of a float network, counted independently of its quantized network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quantexp.quant.inspection.watch import Watch
from quantexp.results import Account, Finding
from quantexp.results.text import listed
from quantexp.state.copies import materialized, to_run
from quantexp.tasks.inputs import Batch, size

NAMED = 3  # operators in a finding
WAYS_OUT = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr)


def account(network: nn.Module, batch: Batch) -> Account:
    """Count the multiply-accumulates of a float network, and name the operators that cannot be counted.

    Products that only compute weights (weight normalisation, parametrizations) do not count: quantization makes such
    weights permanent.

    Args:
        network: Is not changed; a copy runs once.
        batch: What the quantized network is inspected with, since products can depend on the values of the inputs.
    """
    watch, leaving = Watch(), _Leaving()
    with torch.inference_mode(False), torch.no_grad():  # where operators arrive in parts, whatever the caller's mode
        plain, inputs = materialized(to_run(network)), [tensor.clone() for tensor in batch]
        with _attention_in_parts(), leaving, watch:
            plain(*inputs)
    return Account(sum(watch.macs.values()) // size(batch), (*watch.unknown, *leaving.seen))


def findings(counted: Account) -> Iterator[Finding]:
    """Yield a finding if operators cannot be counted."""
    if counted.unknown:
        names = listed(counted.unknown, NAMED)
        yield Finding(
            "macs",
            f"FLOPs and shares of multiply-accumulates are unknown, since the account does not know {names}; "
            "torch.utils.flop_counter.register_flop_formula makes an operator known",
        )


class _Leaving(TorchFunctionMode):
    """Record how floats leave torch, which then does not see what is computed with them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAYS_OUT and args[0].is_floating_point():
            self.seen[f"Tensor.{func.__name__}"] = None
        return func(*args, **(kwargs or {}))


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Let attention layers run as separate products and as dense tensors, not in one operator."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
