"""PT2E of torchao: the network is exported, its graph annotated, prepared and converted.

For the target `kernels` the graph is lowered to onednn; for `qdq` and `xnnpack` it keeps pairs of quantize and
dequantize, which a compiler or a runtime replaces by integer kernels. The target also chooses the quantizer, which
knows the patterns of operators that have such kernels.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torchao.quantization.pt2e import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    disable_observer,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

from quantexp.config import Dynamic, Executorch, Observer, Qat, Static
from quantexp.quant.arithmetic.percentile import percentile_range
from quantexp.quant.flows.exported import Exported, norm_numbers, restore_norm_numbers, shift_variances
from quantexp.quant.flows.lowered import Lowered, any_batch
from quantexp.quant.flows.patterns import patterns_exported_once
from quantexp.quant.flows.qdq import QdqNetwork
from quantexp.quant.flows.working import explain_failure, with_numbers_as_padding, without_known_warnings
from quantexp.quant.selection import kept_in_float
from quantexp.state.copies import materialized, to_run
from quantexp.system.extras import require_extra
from quantexp.system.implementation import resolve
from quantexp.tasks.inputs import Batch

DYNAMICALLY = "nn.Linear"
HANDLES = "nn.Linear and nn.Conv2d"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: functional.relu,
    nn.ReLU6: functional.relu6,
}
EPSILON = 2**-12  # the smallest scale, as in torchao
KERNELS = "kernels"  # the target whose graph is lowered


class PercentileObserver(HistogramObserver):  # type: ignore[misc]
    """An observer whose range contains `percentile` percent of the values."""

    def __init__(self, percentile: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.percentile = percentile

    def _non_linear_param_search(self) -> tuple[Tensor, Tensor]:
        return percentile_range(self.histogram, self.min_val, self.max_val, self.percentile)


OBSERVERS: dict[Observer, Any] = {
    Observer.histogram: HistogramObserver,
    Observer.minmax: MinMaxObserver,
    Observer.moving_average: MovingAverageMinMaxObserver,
    Observer.percentile: PercentileObserver,
}


def dynamic(option: Dynamic, model: nn.Module, precision: str, example: Batch, target: str) -> nn.Module:
    """Quantize the Linear layers of `model` dynamically."""
    quantizers = _quantizers(target)
    # Without a dynamic kernel a convolution would round its values but compute in float.
    convolutions = (name for name, module in model.named_modules() if isinstance(module, CONVOLUTIONS))
    quantizer = quantizers.quantizer(
        quantizers.configuration(lowered=target == KERNELS, is_dynamic=True),
        (*kept_in_float(option, model), *convolutions),
    )
    prepared = Exported(_prepared(prepare_pt2e, _exported(model.eval(), example), quantizer), example)
    calibrate(prepared, [example])  # the observers of weights record their ranges in a call
    return convert(prepared, target)


def prepare_static(option: Static, model: nn.Module, example: Batch, target: str) -> nn.Module:
    """Export `model` and insert observers. `example` is one batch of inputs."""
    quantizers = _quantizers(target)
    config = quantizers.configuration(lowered=target == KERNELS, reduce_range=option.reduce_range)
    settings = {"percentile": option.percentile} if option.observer is Observer.percentile else {}
    observer = OBSERVERS[option.observer].with_args(eps=EPSILON, **settings)
    activation = dataclasses.replace(config.input_activation, observer_or_fake_quant_ctr=observer)
    config = dataclasses.replace(config, input_activation=activation, output_activation=activation)
    quantizer = quantizers.quantizer(config, kept_in_float(option, model))
    return Exported(_prepared(prepare_pt2e, _exported(model.eval(), example), quantizer), example)


def prepare_qat(option: Qat, model: nn.Module, example: Batch, target: str) -> nn.Module:
    """Export `model` and insert fake quant."""
    quantizers = _quantizers(target)
    lowered = target == KERNELS
    config = quantizers.configuration(lowered=lowered, is_qat=True, reduce_range=option.reduce_range)
    quantizer = quantizers.quantizer(config, kept_in_float(option, model))
    exported = _exported(model.train(), example)
    numbers = norm_numbers(exported)
    graph = _prepared(prepare_qat_pt2e, exported, quantizer)
    restore_norm_numbers(graph, numbers)
    return Exported(graph, example, training=True)


def trace(model: nn.Module, example: Batch) -> nn.Module:
    """Return the exported graph of a copy of `model`."""
    return _exported(materialized(to_run(model)).eval(), example)


def freeze_observers(prepared: nn.Module) -> None:
    """Fix the ranges of fake quant at their current values."""
    prepared.apply(disable_observer)


@torch.no_grad()
def calibrate(prepared: nn.Module, batches: Iterable[Batch]) -> None:
    """Run the batches through the network, so that its observers record the ranges."""
    for batch in batches:
        prepared(*batch)


def convert(prepared: Exported, target: str) -> nn.Module:
    """Replace the prepared layers by integer kernels, or by pairs of quantize and dequantize."""
    if prepared.training:  # a rebuilt stored network was never trained and so never switched
        prepared.eval()
    with explain_failure("quant.flow=pt2e needs a network that torchao can convert and lower to onednn"):
        shift_variances(prepared.model)
        with patterns_exported_once():
            converted = convert_pt2e(prepared.model)
        return Lowered(converted, prepared.example) if target == KERNELS else QdqNetwork(converted)


@contextmanager
def _without_logs(name: str) -> Iterator[None]:
    """Drop what a module of torch logs, such as the whole graph that it could not export."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _exported(model: nn.Module, example: Batch) -> fx.GraphModule:
    rule = "quant.flow=pt2e needs a network that torch.export can export for batches of any size"
    quiet = _without_logs("torch.fx.experimental.symbolic_shapes")
    with explain_failure(rule), quiet, without_known_warnings():
        model = _with_single_calls(_with_rows_together(with_numbers_as_padding(model)), example)
        graph: fx.GraphModule = torch.export.export(model, example, dynamic_shapes=any_batch(example)).module()
    return graph


class _Activation(nn.Module):
    """An activation as a function, whose calls are apart in the exported graph."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@torch.no_grad()
def _with_single_calls(model: nn.Module, example: Batch) -> nn.Module:
    """Replace the ReLUs that are called several times, in place: torchao takes all calls of a module for one."""
    calls: Counter[nn.Module] = Counter()
    found = [module for module in model.modules() if type(module) in ACTIVATIONS]
    hooks = [module.register_forward_hook(lambda module, *_: calls.update([module])) for module in found]
    modes = {module: module.training for module in model.modules()}
    with torch.random.fork_rng(devices=[]):
        model.eval()(*example)
    for hook in hooks:
        hook.remove()
    for module, mode in modes.items():
        module.training = mode
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if calls[module] > 1:
            model.set_submodule(name, _Activation(ACTIVATIONS[type(module)]))
    return model


def _with_rows_together(model: nn.Module) -> nn.Module:
    """Give each parameter torch's own layout, in place: packed for onednn, a weight in another one is noise."""
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    return model


def _prepared(prepare: Any, exported: fx.GraphModule, quantizer: Any) -> fx.GraphModule:
    with explain_failure("quant.flow=pt2e needs a network that torchao can prepare"), patterns_exported_once():
        graph: fx.GraphModule = prepare(exported, quantizer)
    return graph


def _quantizers(target: str) -> Any:
    """Return the module with the quantizer for a target, and its settings. Raises ConfigError if a package is missing.

    Both have the functions `configuration(lowered, is_dynamic, is_qat, reduce_range)` and `quantizer(config, kept)`.
    """
    if target != Executorch.target:
        return resolve("quantexp.quant.flows.x86_quantizer")
    require_extra("executorch", f"a network for runtime={Executorch.name}", "executorch")
    return resolve("quantexp.quant.flows.xnnpack_quantizer")
