"""The layers of a network, whatever they hold their weights in, and in whatever precision.

A layer is a module with a weight, recurrent or attention layers with all their weights, or a parameter of two or more
dimensions that a function takes. Names of attributes alone mean nothing: in a module of the user, `weight` can be a
method, a child, or a tensor that is no parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.ao.nn.quantized.dynamic as dynamic
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from quantexp.quant.inspection.promise import Wrapper
from quantexp.state.copies import computed_weights

PARAMETER = "Parameter"  # the kind of a layer that is a function with a parameter
SEVERAL = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)  # layers with several weights of their own
PACKED_RECURRENT = (dynamic.RNNCell, dynamic.LSTMCell, dynamic.GRUCell, dynamic.LSTM, dynamic.GRU)
FUNCTIONAL = "functional_weights"  # in the `meta` of a graph: the layer of each packed weight that a function takes


@dataclass(frozen=True)
class HeldWeights:
    """The weight and bias of one layer, and the dtype of the stored weight, which can differ after unpacking.

    `qscheme` is None for a layer that is not quantized. `scale` has one number per channel if the weight is a tensor of
    plain integers, None if the tensor has its own scales. `more` and `more_biases` are the further ones of a recurrent
    or an attention layer. `operand` is what a function takes as the weight, None if the layer is a module.
    """

    name: str
    kind: str
    module: nn.Module
    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    qscheme: str | None = None
    scale: Tensor | None = None
    more: tuple[Tensor, ...] = ()
    more_biases: tuple[Tensor, ...] = ()
    operand: Any = None

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """All weights of the layer."""
        return self.weight, *self.more

    @property
    def biases(self) -> tuple[Tensor, ...]:
        """All biases of the layer."""
        return (*(() if self.bias is None else (self.bias,)), *self.more_biases)


@torch.no_grad()
def held_weights(model: nn.Module, *, packed: bool = False) -> Iterator[HeldWeights]:
    """Yield the weights of the layers; with `packed`, only those that are neither parameters nor buffers.

    A layer has one entry, which is that of its float weight if some of its calls use it; with `packed` a weight that is
    packed several times has several.
    """
    network = model.model if isinstance(model, Wrapper) else model
    if own := getattr(network, "held_weights", None):  # a graph lists its layers itself
        if not packed or getattr(network, "packs_weights", False):
            yield from own()
        return
    found: dict[str, HeldWeights] = {}
    for name, module in _modules("", network, set()):
        for held in _unpacked(name, module):
            if packed:
                yield held
            else:
                found.setdefault(held.name, held)
        if not packed:
            found |= {held.name: held for held in _own(name, module, network)}
    yield from found.values()


def is_computed(module: nn.Module) -> bool:
    """Return whether the weight of a layer is a plain attribute, which a hook of the user computes in each call."""
    weight = vars(module).get("weight")
    return isinstance(weight, Tensor) and not weight.is_quantized and "weight" not in computed_weights(module)


def layer_of(network: nn.Module, path: str) -> str:
    """Return the layer that the parameter `path` is a weight of, such as `attention` for `attention.in_proj_weight`."""
    owner, _, name = path.rpartition(".")
    whole = name == "weight" or isinstance(network.get_submodule(owner), SEVERAL)
    return owner if whole else path


def held_as(weight: Tensor) -> tuple[torch.dtype, str | None]:
    """Return the dtype of the stored values of a weight, and its qscheme, which is None if it is not quantized.

    A weight of torchao has a float dtype, but its values are in `qdata`, with two int4 values in a byte.
    """
    if weight.is_quantized:
        return weight.dtype, _qscheme(weight)
    values = getattr(weight, "qdata", None)
    if values is None:
        return weight.dtype, None
    rows, columns = weight.block_size  # type: ignore[attr-defined]
    granularity = "per_tensor" if rows > 1 else "per_channel" if columns == weight.shape[1] else "per_group"
    zero_point = getattr(weight, "zero_point", None) if hasattr(weight, "zero_point") else values
    affine = zero_point is not None and bool(zero_point.any())
    is_int4 = 2 * values.nbytes == weight.numel()
    dtype = torch.int4 if is_int4 else values.dtype  # type: ignore[attr-defined]
    return dtype, f"{granularity}_{'affine' if affine else 'symmetric'}"


def _modules(name: str, module: nn.Module, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules with their names; what computes the weights of a parametrized module is a part of it."""
    if module in seen:
        return
    seen.add(module)
    yield name, module
    for child_name, child in module.named_children():
        if child_name != "parametrizations" or not is_parametrized(module):
            yield from _modules(f"{name}.{child_name}" if name else child_name, child, seen)


def _unpacked(name: str, module: nn.Module) -> Iterator[HeldWeights]:
    """Yield the weights that are packed for a kernel, or are plain attributes of a quantized module."""
    kind = type(module).__name__
    if not _is_from("torch.ao.nn", module):
        for attribute, packed in vars(module).items():
            if isinstance(packed, torch.ScriptObject) and hasattr(packed, "unpack"):
                weight, bias = packed.unpack()
                layer = getattr(module, "meta", {}).get(FUNCTIONAL, {}).get(attribute, _joined(name, attribute))
                dtype = weight.dtype if weight.is_quantized else torch.float16
                yield HeldWeights(layer, PARAMETER, module, weight, bias, dtype, _qscheme(weight), operand=packed)
    elif isinstance(module, PACKED_RECURRENT):
        first, *more = (tensor for _, tensor in sorted(module.get_weight().items()))  # type: ignore[no-untyped-call]
        found = module.get_bias().values()  # type: ignore[no-untyped-call]
        biases = tuple(bias.detach() for bias in found if bias is not None)
        held = first.dtype if first.is_quantized else torch.float16
        yield HeldWeights(name, kind, module, first, None, held, _qscheme(first), more=tuple(more), more_biases=biases)
    elif callable(weight := getattr(type(module), "weight", None)):  # unpacks
        unpacked, bias = weight(module), getattr(type(module), "bias", None)
        held = getattr(getattr(module, "_packed_params", None), "dtype", unpacked.dtype)
        yield HeldWeights(
            name, kind, module, unpacked, bias(module) if callable(bias) else None, held, _qscheme(unpacked)
        )
    elif isinstance(plain := vars(module).get("weight"), Tensor) and plain.is_quantized:
        yield HeldWeights(name, kind, module, plain, None, *held_as(plain))


def _own(name: str, module: nn.Module, network: nn.Module) -> Iterator[HeldWeights]:
    """Yield the layers that the parameters of a module make: the module itself, or functions that take them."""
    tensors = _tensors(module)
    kind = _kind(module)
    weight, bias = tensors.pop("weight", None), tensors.pop("bias", None)
    if weight is not None:
        yield HeldWeights(_unfused(name, network), kind, module, weight, bias, *held_as(weight))
    weights = {key: tensor for key, tensor in tensors.items() if tensor.dim() > 1 and "bias" not in key}
    if weights and isinstance(module, SEVERAL):
        first, *more = (tensor for _, tensor in sorted(weights.items()))  # hooks can change the order of parameters
        biases = tuple(tensor for key, tensor in tensors.items() if key not in weights)
        yield HeldWeights(name, kind, module, first, None, *held_as(first), more=tuple(more), more_biases=biases)
        return
    if weight is not None and is_computed(module):
        return  # from these parameters
    for key, tensor in weights.items():
        yield HeldWeights(_joined(name, key), PARAMETER, module, tensor, None, *held_as(tensor), operand=tensor)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights and biases of a module by name: parameters, and what torch computes from them."""
    computed = computed_weights(module)
    sources = {source for names in computed.values() for source in names}
    tensors: dict[str, Tensor] = {
        key: tensor for key, tensor in module.named_parameters(recurse=False) if key not in sources
    }
    tensors |= {key: getattr(module, key) for key in computed if key not in sources}
    if _is_from("torch.nn.modules", module) and not isinstance(module, _Loss):  # also computed by the user's hooks
        weight = vars(module).get("weight", module._buffers.get("weight"))
        if "weight" not in tensors and isinstance(weight, Tensor) and not weight.is_quantized:
            tensors["weight"] = weight
    return {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point() or tensor.is_complex()}


def _kind(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return f"scripted {module.original_name}"
    return str(type_before_parametrizations(module).__name__)


def _is_from(package: str, module: nn.Module) -> bool:
    """Return whether the class of a module, or one that it derives from, is defined in `package`."""
    return any(kind.__module__.startswith(f"{package}.") for kind in type(module).__mro__ if kind is not nn.Module)


def _qscheme(weight: Tensor) -> str | None:
    return str(weight.qscheme()).removeprefix("torch.") if weight.is_quantized else None


def _joined(name: str, attribute: str) -> str:
    return f"{name}.{attribute}" if name else attribute


def _unfused(name: str, network: nn.Module) -> str:
    """Return the name of a layer before torch.ao fused it with its activation: `0` for `0.0`."""
    parent, _, index = name.rpartition(".")
    fused = index == "0" and type(network.get_submodule(parent)).__module__.startswith("torch.ao.nn.intrinsic")
    return parent if fused else name
