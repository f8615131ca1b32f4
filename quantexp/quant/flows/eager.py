"""Eager mode of torch.ao, as in many tutorials: stubs, fused modules, prepare and convert.

Between two stubs around the network, the layers exchange quantized tensors. For a layer that stays in float, because
the user chose it or because it has no int8 kernel, the input is dequantized and the output quantized again, unless it
is the output of the network.

A network with a method `quantizable()` is replaced by what that returns: the same network with FloatFunctional for
operators such as +, with its own stubs, and with a method `fuse_model(is_qat)`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QConfig, QuantStub, disable_observer
from torch.ao.quantization.quantization_mappings import get_default_static_quant_module_mappings

from quantexp.config import ByLayer, Dynamic, Qat, Static
from quantexp.quant.flows.attention import call_all_layers
from quantexp.quant.flows.embeddings import EMBEDDINGS, embeddings
from quantexp.quant.flows.qconfigs import EMBEDDING, dynamic_qconfig, qat_qconfig, static_qconfig
from quantexp.quant.flows.working import UnquantizableError, explain_failure, with_numbers_as_padding
from quantexp.quant.inspection.layers import SEVERAL, held_weights
from quantexp.quant.inspection.promise import Wrapper
from quantexp.quant.selection import kept_in_float
from quantexp.tasks.inputs import Batch

DYNAMICALLY = "nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell and nn.RNNCell"
HANDLES = "the layers that have int8 modules in eager mode"
DTYPES = {"int8": torch.qint8, "fp16": torch.float16}
RECURRENT = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
SAME = 1e-4  # the greatest difference of equal outputs, relative to the greatest one: the order of sums can differ
SATURATES = 6.1  # what ReLU6 observed ends at 6, and at about 12 with a reduced range
FUSED = (  # the patterns that fuse_modules fuses, the longest first
    (nn.Conv2d, nn.BatchNorm2d, nn.ReLU),
    (nn.Conv2d, nn.BatchNorm2d),
    (nn.Conv2d, nn.ReLU),
    (nn.Linear, nn.ReLU),
)


class Stubbed(Wrapper):
    """A network between stubs that become quantize and dequantize; inputs of integers have no stub.

    A network with stubs of its own gets none.
    """

    def __init__(self, model: nn.Module, example: Batch) -> None:
        super().__init__(model)
        has_stubs = any(isinstance(module, QuantStub) for module in model.modules())
        floats = [index for index, tensor in enumerate(example) if tensor.is_floating_point() and not has_stubs]
        self.stubs = {index: f"quant{number or ''}" for number, index in enumerate(floats)}  # by index of the input
        for name in self.stubs.values():
            self.add_module(name, QuantStub())
        self.dequant = nn.Identity() if has_stubs else DeQuantStub()

    def forward(self, *batch: Tensor) -> Tensor:
        inputs = [
            self.get_submodule(self.stubs[index])(tensor) if index in self.stubs else tensor
            for index, tensor in enumerate(batch)
        ]
        logits: Tensor = self.dequant(self.model(*inputs))
        return logits


def dynamic(option: Dynamic, model: nn.Module, precision: str, example: Batch, target: str) -> nn.Module:
    """Quantize the Linear and recurrent layers of `model` dynamically, and embeddings if asked for, in place."""
    kept = kept_in_float(option, model)
    layers = [name for name, module in model.named_modules() if is_dynamic(module) and name not in kept]
    qconfigs = dict.fromkeys(layers, dynamic_qconfig(precision, option.granularity))
    qconfigs |= dict.fromkeys(embeddings(option, model), EMBEDDING)
    call_all_layers(model)
    return quantize_dynamic(model, qconfigs, precision)


def is_dynamic(module: nn.Module) -> bool:
    """Return whether torch.ao has a dynamic kernel for a layer: not without biases, or with a projection."""
    if type(module) in RECURRENT:
        return bool(module.bias) and not getattr(module, "proj_size", 0)
    return type(module) is nn.Linear


def quantize_dynamic(model: nn.Module, qconfigs: dict[str, Any], precision: str) -> nn.Module:
    """Replace layers of `model` by dynamically quantized ones, in place; `qconfigs` is by their names."""
    modules = list(model.named_modules(remove_duplicate=False))  # a shared layer has several names
    names = {module: name for name, module in reversed(modules)}
    quantized: nn.Module = quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
        model, qconfigs, dtype=DTYPES[precision], inplace=True
    )
    for name, module in modules:
        if name != names[module]:  # torch replaces a layer under its first name only
            quantized.set_submodule(name, quantized.get_submodule(names[module]))
    return quantized


def prepare_static(option: Static, model: nn.Module, example: Batch, target: str) -> nn.Module:
    """Put stubs around `model`, fuse its modules and insert observers, in place."""
    stubbed, clipped = _stubbed(option, model.eval(), example, static_qconfig(option, model), training=False)
    prepared: nn.Module = quantization.prepare(stubbed, inplace=True)  # type: ignore[no-untyped-call]
    return _clipping(prepared, clipped)


def prepare_qat(option: Qat, model: nn.Module, example: Batch, target: str) -> nn.Module:
    """Put stubs around `model`, fuse its modules and insert fake quant, in place."""
    stubbed, clipped = _stubbed(option, model.eval(), example, qat_qconfig(option, model), training=True)
    prepared: nn.Module = quantization.prepare_qat(stubbed, inplace=True)  # type: ignore[no-untyped-call]
    return _clipping(prepared, clipped)


def freeze_observers(prepared: nn.Module) -> None:
    """Fix the ranges of fake quant at their current values."""
    prepared.apply(disable_observer)


@torch.no_grad()
def calibrate(prepared: nn.Module, batches: Iterable[Batch]) -> None:
    """Run the batches through the network, so that its observers record the ranges."""
    for batch in batches:
        prepared(*batch)


def convert(prepared: nn.Module, target: str) -> nn.Module:
    """Replace the prepared layers by integer kernels, in place."""
    module: Any
    for module in prepared.modules():
        rounding = getattr(module, "weight_fake_quant", None)
        if rounding is not None and rounding.is_per_channel and len(rounding.scale) != len(module.weight):
            rounding.enable_observer()
            rounding(module.weight)  # the network has this layer but never calls it
    converted: nn.Module = quantization.convert(prepared.eval(), inplace=True)  # type: ignore[no-untyped-call]
    return converted


def _stubbed(
    option: ByLayer, model: nn.Module, example: Batch, qconfig: QConfig, *, training: bool
) -> tuple[Stubbed, list[str]]:
    """Return `model` between stubs, fused, and the names of the modules that were fused with a ReLU6.

    Hooks dequantize and requantize around layers that stay in float.
    """
    kept = kept_in_float(option, model)
    mapped = get_default_static_quant_module_mappings()
    unfit = (*EMBEDDINGS, nn.PReLU)  # the int8 kernel of PReLU multiplies positive values too
    floats = [
        layer.name
        for layer in held_weights(model)
        if layer.operand is None and not isinstance(layer.module, SEVERAL)
        if layer.name in kept or type(layer.module) not in mapped or isinstance(layer.module, unfit)
    ]
    last = _last([model.get_submodule(name) for name in floats], model, example)
    unquantized_output = next((name for name in floats if model.get_submodule(name) is last), None)
    fusible, own = _fusible(option, model), _own_form(model, example)
    stubbed = Stubbed(with_numbers_as_padding(model if own is None else own), example)
    stubbed.train(training)
    stubbed.qconfig = qconfig  # type: ignore[assignment]
    clipped: list[str] = []
    if own is not None:
        clipped = _fuse_own(own, training)
    elif fusible:
        fuse: Any = quantization.fuse_modules_qat if training else quantization.fuse_modules
        fuse(stubbed.model, fusible, inplace=True)
    for name in floats:
        module: Any = stubbed.model.get_submodule(name)  # a layer, or what it was fused into
        module.qconfig = None
        module.register_forward_pre_hook(_dequantize)
        if name != unquantized_output:
            module.requantize = QuantStub(qconfig)
            module.register_forward_hook(_requantize)
    return stubbed, [f"model.{name}" for name in clipped]


@torch.no_grad()
def _own_form(model: nn.Module, example: Batch) -> Any:
    """Return what the network's `quantizable()` returns, with its weights; None if it has no such method.

    Raises:
        UnquantizableError: If it is another function of its inputs.
    """
    if not callable(quantizable := getattr(model, "quantizable", None)):
        return None
    rule = "quantizable() must return the same network, with fuse_model(is_qat), for quant.flow=eager"
    with explain_failure(rule), torch.random.fork_rng(devices=[]):
        form = quantizable()
        form.load_state_dict(model.state_dict())
        with _without_unused(form.eval()):
            outputs, expected = form(*example), model(*example)
    if not torch.allclose(outputs, expected, rtol=SAME, atol=SAME * float(expected.abs().max())):
        difference = float((outputs - expected).abs().max())
        raise UnquantizableError(f"{rule}, its outputs differ by up to {difference:.3g}")
    return form


@contextmanager
def _without_unused(network: nn.Module) -> Iterator[None]:
    """Let those FloatFunctionals stay as they are that are not called in the context: they have no range."""
    unused = {module for module in network.modules() if isinstance(module, FloatFunctional)}
    hooks = [
        module.activation_post_process.register_forward_hook(lambda *_, module=module: unused.discard(module))
        for module in unused
    ]
    yield
    for hook in hooks:
        hook.remove()
    for module in unused:
        module.qconfig = None  # type: ignore[assignment]


def _fuse_own(network: Any, is_qat: bool) -> list[str]:
    """Fuse a network with its own `fuse_model`, in place, and return the modules that were fused with a ReLU6.

    torch.ao fuses ReLU only, so that each ReLU6 becomes one.
    """
    replaced: dict[nn.Module, str] = {}
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if type(module) is nn.ReLU6:
            relu = nn.ReLU().train(module.training)  # torch.ao fuses modules of one mode
            replaced[relu] = name
            network.set_submodule(name, relu)
    network.fuse_model(is_qat=is_qat)
    fused = {name: module for name, module in network.named_modules() if isinstance(module, _FusedModule)}
    clipped = {name: relu for name, module in fused.items() for relu in module.children() if relu in replaced}
    for unfused in replaced.keys() - clipped.values():
        network.set_submodule(replaced[unfused], nn.ReLU6())
    return list(clipped)


def _clipping(prepared: nn.Module, names: Iterable[str]) -> nn.Module:
    """Make the named fused modules compute ReLU6 in the place of ReLU, before their outputs are observed.

    Before conversion, those of static quantization are a Sequential, which calls its observer itself.
    """
    for name in names:
        module = prepared.get_submodule(name)
        module.register_forward_hook(_clip, prepend=True)
        for child_name, child in module.named_children():
            if type(child) is nn.ReLU:
                module.set_submodule(child_name, nn.ReLU6())
    return prepared


def _clip(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    if output.is_quantized and (255 - output.q_zero_point()) * output.q_scale() < SATURATES:
        return output  # with all bits in use, integers saturate at the limit
    return output.clamp(0.0, 6.0)


def _dequantize(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.dequantize() if tensor.is_quantized else tensor for tensor in inputs)


def _requantize(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    quantized: Tensor = layer.requantize(output)
    return quantized


@torch.no_grad()
def _last(layers: Iterable[nn.Module], model: nn.Module, example: Batch) -> nn.Module | None:
    """Return the layer whose output is the output of the network."""
    outputs: list[tuple[nn.Module, Tensor]] = []
    hooks = [layer.register_forward_hook(lambda layer, _, output: outputs.append((layer, output))) for layer in layers]
    logits = model(*example)
    for hook in hooks:
        hook.remove()
    return next((layer for layer, output in outputs if output is logits), None)


def _fusible(option: ByLayer, model: nn.Module) -> list[list[str]]:
    """Return the names of modules that can be fused: neighbours in a Sequential, none of them kept in float."""
    kept = kept_in_float(option, model)
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            found += _neighbours(f"{name}." if name else "", module, kept)
    return found


def _neighbours(prefix: str, modules: nn.Sequential, kept: Container[str]) -> list[list[str]]:
    names = list(modules._modules)  # a layer that is called several times has several names
    kinds = tuple(type(module) for module in modules)
    found, index = [], 0
    while index < len(names):
        fused = next((pattern for pattern in FUSED if kinds[index : index + len(pattern)] == pattern), None)
        if fused and f"{prefix}{names[index]}" not in kept:
            found.append([f"{prefix}{name}" for name in names[index : index + len(fused)]])
        index += len(fused) if fused else 1
    return found
