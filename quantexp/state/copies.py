"""Copies of networks, and weights that are computed before each call made permanent.

Weight normalisation, spectral normalisation, pruning and parametrizations compute the weight of a layer from other
parameters. torch cannot copy a weight that was computed with gradients, and quantization needs the weight itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

N = TypeVar("N", bound=nn.Module)


def copied(network: N) -> N:
    """Return a deep copy of `network` in its own memory; the copy of a computed tensor is a constant."""
    return _copied(network, {})


def to_run(network: N) -> N:
    """Return a copy of `network` to run it, in which parameters share the memory of the original.

    Whatever else a forward pass may change is copied: buffers, attributes, which module has which parameter.
    """
    lent = {id(one): nn.Parameter(one.detach(), one.requires_grad) for one in _shareable(network)}
    return _copied(network, lent)


def take_apart(network: nn.Module, lender: nn.Module) -> None:
    """Give the parameters of `network` that lie in the memory of `lender` memory of their own, in place."""
    lent = {parameter.untyped_storage().data_ptr() for parameter in _shareable(lender)}
    memo: dict[int, Any] = {}  # what shares memory in the network still does
    for parameter in _shareable(network):
        if parameter.untyped_storage().data_ptr() in lent:
            parameter.data = copy.deepcopy(parameter.detach(), memo)


def _shareable(network: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that a copy can share: no subclasses, and no sparse ones, which have no storage."""
    for parameter in network.parameters():
        if type(parameter) is nn.Parameter and parameter.layout is torch.strided:
            yield parameter


def _copied(network: N, memo: dict[int, Any]) -> N:
    with torch.no_grad():
        memo |= {id(tensor): tensor.detach().clone() for tensor in _computed(network)}
        return copy.deepcopy(network, memo)


@torch.no_grad()
def materialized(network: nn.Module) -> nn.Module:
    """Return `network` with the weights that hooks or parametrizations compute in evaluation mode as plain parameters.

    This changes `network` itself. Its layers keep their names, and nothing changes if no weight is computed.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()  # in training mode spectral normalisation changes its state
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            _remove_parametrizations(module)
        _remove_hooks(module)
    for module, mode in modes.items():
        module.training = mode
    return network


def computed_weights(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the names of the tensors that torch computes for a module, each with the parameters it replaces."""
    found: dict[str, tuple[str, ...]] = {}
    if parametrize.is_parametrized(module):
        found |= {name: () for name in module.parametrizations}  # type: ignore[union-attr]
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            found[hook.name] = (f"{hook.name}_g", f"{hook.name}_v")
        elif isinstance(hook, SpectralNorm):
            found[hook.name] = (f"{hook.name}_orig",)
        elif isinstance(hook, prune.BasePruningMethod):
            found[str(hook._tensor_name)] = (f"{hook._tensor_name}_orig",)
    return found


def _computed(network: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors in attributes of modules that autograd computed, which torch cannot copy."""
    for module in network.modules():
        yield from _not_leaves(vars(module).values())


def _not_leaves(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            if not value.is_leaf:
                yield value
        elif isinstance(value, dict):
            yield from _not_leaves(value.values())
        elif isinstance(value, list | tuple | set):
            yield from _not_leaves(value)


def _remove_parametrizations(module: Any) -> None:
    # remove_parametrizations changes the class of the module, which a copy shares with its original
    held = dict(module.parametrizations)
    values = {name: getattr(module, name).detach().clone(memory_format=torch.contiguous_format) for name in held}
    before = parametrize.type_before_parametrizations(module)
    delattr(module, "parametrizations")
    module.__class__ = before
    for name, computed in held.items():
        if parameters := list(computed.parameters(recurse=False)):
            trained = any(parameter.requires_grad for parameter in parameters)
            setattr(module, name, nn.Parameter(values[name], trained))
        else:
            module.register_buffer(name, values[name])


def _remove_hooks(module: Any) -> None:
    """Remove the hooks of torch that compute a weight, the last one first: it can work on a result of the others."""
    for hook in reversed(list(module._forward_pre_hooks.values())):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
            _remove_load_hook(module, hook)
        elif isinstance(hook, prune.BasePruningMethod):
            name = str(hook._tensor_name)
            original = module._parameters[f"{name}_orig"]  # torch writes into it, and another layer may share it
            module._parameters[f"{name}_orig"] = nn.Parameter(original.detach().clone(), original.requires_grad)
            prune.remove(module, name)  # type: ignore[no-untyped-call]


def _remove_load_hook(module: Any, removed: SpectralNorm) -> None:
    """Remove the hook that requires the parameters of `removed` in a state dict: torch does not find it."""
    for key, wrapped in list(module._load_state_dict_pre_hooks.items()):
        hook = getattr(wrapped, "hook", wrapped)
        if isinstance(hook, SpectralNormLoadStateDictPreHook) and hook.fn is removed:
            del module._load_state_dict_pre_hooks[key]
