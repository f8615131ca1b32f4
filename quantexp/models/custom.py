"""A network of the user: a class, or a function that returns a `torch.nn.Module`.

It is built with `target(inputs=..., classes=..., **arguments)`. The attribute `takes` of the class or function names
the kinds of input, such as "image" or ("tokens",); `inputs` is then a tuple of `InputSpec`. Without `takes` the network
takes flat features, and `inputs` is their number. The network returns its logits, or an output that has them as
`.logits` or as its first item.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import CustomModel, Kind, Taken
from quantexp.results import InputSpec
from quantexp.system import own_code
from quantexp.system.errors import ConfigError
from quantexp.tasks.custom import own_kinds
from quantexp.tasks.inputs import examples

OURS = "quantexp.models."


def takes(model: CustomModel) -> tuple[Taken, ...]:
    """Return the kinds of input that the user's network takes; flat features by default. Raises ConfigError."""
    kinds = own_kinds("model", model.target, "takes") or (Kind.features,)
    return tuple(Taken(kind) for kind in kinds)


def source(model: CustomModel) -> str:
    """Return a digest of the user's code. Raises ConfigError."""
    return own_code.source_digest(own_code.find("model.target", str(model.target)))


def build(model: CustomModel, inputs: Sequence[InputSpec], classes: int) -> nn.Module:
    """Build the network. Raises ConfigError if it cannot be built or does not return one logit for each class."""
    target, found = str(model.target), own_code.find("model.target", str(model.target))
    argument: Any = tuple(inputs) if getattr(found, "takes", ()) else inputs[0].values
    network = _called(target, found, {"inputs": argument, "classes": classes, **model.arguments})
    _check_parameters(target, network)
    batch = examples(inputs, 2)
    shapes = " and ".join(str(tuple(tensor.shape)) for tensor in batch)
    try:
        with torch.no_grad():
            result = network.eval()(*batch)
    except Exception as error:  # the user's code can raise anything
        raise ConfigError(
            f"model.target={target} must take {shapes} ({', '.join(spec.dtype for spec in inputs)}), but it failed "
            f"({type(error).__name__}: {error}); correct it or model.arguments"
        ) from error
    named = hasattr(result, "logits")
    logits = result if isinstance(result, Tensor) else _logits(result, named)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (2, classes):
        raise ConfigError(
            f"model.target={target} must return shape (2, {classes}) for {shapes}, one logit for each class; "
            f"got {shape}; correct it"
        )
    if not isinstance(result, Tensor):
        _give_logits_only(network, named)
    return network.train()


def is_ours(target: object) -> bool:
    """Return whether `target` names a network of quantexp, which is safe to build without trust."""
    if not isinstance(target, str) or not target.startswith(OURS):
        return False
    found = own_code.find("model.target", target)
    return isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(OURS)


def _called(target: str, found: Any, arguments: dict[str, Any]) -> nn.Module:
    try:
        network = found(**arguments)
    except Exception as error:  # the user's code can raise anything
        call = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ConfigError(
            f"model.target={target} must build as {found.__name__}({call}), but it failed "
            f"({type(error).__name__}: {error}); correct it or model.arguments"
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"model.target={target} must be a torch.nn.Module or return one, got {type(network).__name__}"
        )
    return network


def _check_parameters(target: str, network: nn.Module) -> None:
    """Raise ConfigError if the network is not in float32, with which its quantized forms are compared."""
    for name, parameter in network.named_parameters():
        if (parameter.is_floating_point() or parameter.is_complex()) and parameter.dtype is not torch.float32:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise ConfigError(
                f"model.target={target} must have its parameters in float32, {name} is in {dtype}; build it in "
                "float32, as without .double() or .half() on the network and on what forward() computes"
            )


def _logits(result: Any, named: bool) -> Any:
    """Return the `.logits` of an output if `named`, else its first item."""
    if named:
        return result.logits
    return result[0] if isinstance(result, tuple | list) and result else result


def _give_logits_only(network: nn.Module, named: bool) -> None:
    """Make the network return only its logits. It is not wrapped, so that its layers keep their names."""
    kind: Any = type(network)

    @functools.wraps(kind.forward)  # tracers read the names of its inputs
    def forward(self: Any, *batch: Tensor, **others: Any) -> Any:
        return _logits(kind.forward(self, *batch, **others), named)

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
