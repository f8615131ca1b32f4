"""The calls of the layers of a network while it runs: their inputs, their outputs, and what follows on an output alone.

Modules are seen by hooks. Functions with weights, and the ReLU and batch normalisation behind a layer, are seen by a
mode that torch calls for each function, so it makes no difference whether they are modules, functions or methods.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from quantexp.quant.inspection.dequantized import Call, Grid, Step, named_layers, simulated
from quantexp.quant.inspection.layers import HeldWeights
from quantexp.quant.inspection.promise import Simulated, Wrapper
from quantexp.tasks.inputs import Batch

PRODUCTS = ("linear", "conv", "matmul", "mm", "addmm", "bmm", "__matmul__")  # of functions, as their names begin
RELU = (functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
UNKNOWN = ""  # a normalisation that is no layer, so that it is not known whether it was folded


@torch.no_grad()
def calls(model: nn.Module, batch: Batch) -> dict[str, list[Call]]:
    """Return the calls of each layer when the network runs on `batch`, by the names of the layers in the float network.

    The network runs once, without fused kernels for attention, and all hooks are removed again.
    """
    network = model.model if isinstance(model, Wrapper) else model
    if own := getattr(network, "layer_calls", None):  # a graph has no modules for hooks
        graph_calls: dict[str, list[Call]] = own(batch)
        return graph_calls
    layers = named_layers(model)
    recorder = _Recorder(network, layers)
    hooks = [
        held.module.register_forward_hook(partial(recorder.add, name), with_kwargs=True)
        for name, held in layers.items()
        if held.operand is None
    ]
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with recorder:
            model(*batch)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for hook in hooks:
            hook.remove()
    rounding = simulated(model)
    return {
        name: [_call(seen, held, rounding.get(name)) for seen in recorder.seen[name] or recorder.functions[name]]
        for name, held in layers.items()
    }


@dataclass
class _Seen:
    """A call, and the functions that followed: `takers[n]` functions took the output behind n steps."""

    inputs: Tensor
    output: Tensor
    rectified: bool
    steps: list[Step] = field(default_factory=list)
    takers: list[int] = field(default_factory=lambda: [0])

    def behind(self) -> tuple[Step, ...]:
        """Return the steps whose input no other function took."""
        return tuple(
            step for step, _ in takewhile(lambda pair: pair[1] == 1, zip(self.steps, self.takers, strict=False))
        )


class _Recorder(TorchFunctionMode):
    """Records the calls of layers, and follows their outputs through functions."""

    def __init__(self, network: nn.Module, layers: dict[str, HeldWeights]) -> None:
        super().__init__()
        self.seen: defaultdict[str, list[_Seen]] = defaultdict(list)
        self.functions: defaultdict[str, list[_Seen]] = defaultdict(list)  # with the weight of a layer
        self.outputs: defaultdict[int, list[tuple[_Seen, int]]] = defaultdict(list)  # by the id of the tensor
        self.alive: list[Tensor] = []  # an id is that of one tensor only as long as the tensor exists
        self.names: defaultdict[int, list[str]] = defaultdict(list)
        for name, held in layers.items():
            self.names[id(held.weight if held.operand is None else held.operand)].append(name)
        norms = ((name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm))
        self.norms = {id(norm.running_var): name if name in layers else UNKNOWN for name, norm in norms}

    def add(self, name: str, layer: nn.Module, args: Any, named: dict[str, Any], output: Any) -> None:
        """Record a call of a module, from a hook."""
        inputs, result = _first((*args, *named.values())), _first(output)
        if inputs is not None and result is not None:
            self._follow(self.seen[name], inputs, result, _rectifies(layer))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        if func_name(func) == "__get__" or not isinstance(result, Tensor | tuple | list | None):
            return result  # an attribute, such as the shape
        step = _step(func, args, named, self.norms) if isinstance(result, Tensor) else None
        for tensor in {id(tensor): tensor for tensor in _tensors((*args, *named.values()))}.values():
            self._taken(tensor, result, step)
        if isinstance(result, Tensor) and func_name(func).startswith(PRODUCTS):
            self._add_function(func, args, named, result)
        return result

    def _add_function(self, func: Any, args: Any, named: dict[str, Any], result: Tensor) -> None:
        for value in (*args, *named.values()):
            for name in self.names.get(id(value), ()):
                if (inputs := next((other for other in args if other is not value), None)) is not None:
                    self._follow(self.functions[name], inputs, result, func_name(func).endswith("relu"))

    def _follow(self, calls: list[_Seen], inputs: Tensor, output: Tensor, rectified: bool) -> None:
        with torch._C.DisableTorchFunction():  # this mode must not see the copies
            # The network may change both in place later.
            seen = _Seen(inputs.clone(), output.clone(), rectified)
        calls.append(seen)
        self.alive.append(output)
        self.outputs[id(output)].append((seen, 0))

    def _taken(self, tensor: Tensor, result: Any, step: Step | None) -> None:
        """Note that a function took a tensor; with `step`, its result is the output of the layer behind it."""
        for seen, number in self.outputs.pop(id(tensor), []) if result is tensor else self.outputs.get(id(tensor), []):
            seen.takers[number] += 1
            if step and len(seen.steps) == number:
                seen.steps.append(step)
                seen.takers.append(0)
                self.alive.append(result)
                self.outputs[id(result)].append((seen, number + 1))


def func_name(func: Any) -> str:
    """Return the name of a function, a method or an operator."""
    return str(getattr(func, "__name__", ""))


def _step(func: Any, args: Any, named: dict[str, Any], norms: dict[int, str]) -> Step | None:
    if func in RELU:
        return Step(torch.relu)
    if func is not functional.batch_norm:
        return None
    given = inspect.signature(func).bind(*args, **named)
    given.apply_defaults()
    _, mean, variance, weight, bias, training, _, eps = given.args
    if training or variance is None:
        return None
    return Step(
        lambda x: functional.batch_norm(x, mean, variance, weight, bias, eps=eps), norms.get(id(variance), UNKNOWN)
    )


def _call(seen: _Seen, held: HeldWeights, rounding: Simulated | None) -> Call:
    inputs = seen.inputs
    values = inputs.dequantize() if inputs.is_quantized or inputs.is_floating_point() else None
    return Call(values, seen.output.dequantize(), _grid(inputs, rounding), seen.rectified, seen.behind())


def _grid(inputs: Tensor, rounding: Simulated | None) -> Grid | None:
    if rounding is not None:
        if rounding.quant_max == 1:
            return None  # two levels for each channel: nothing is out of range
        return Grid(float(rounding.scale), int(rounding.zero_point), 0, rounding.quant_max)
    if not inputs.is_quantized:
        return None
    bounds = torch.iinfo(inputs.dtype)
    return Grid(inputs.q_scale(), inputs.q_zero_point(), int(bounds.min), int(bounds.max))


def _rectifies(layer: nn.Module) -> bool:
    """Return whether torch.ao fused the layer and its ReLU into one module."""
    kind = type(layer)
    return kind.__module__.startswith("torch.ao.nn.intrinsic") and "ReLU" in kind.__name__


def _first(value: Any) -> Tensor | None:
    """Return the tensor that a value is, or has as its first item: the sequence of (output, state), for example."""
    while isinstance(value, tuple | list) and value:
        value = value.data if isinstance(value, PackedSequence) else value[0]
    return value if isinstance(value, Tensor) else None


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
