"""PT2E of torchao: the network is exported, its graph annotated, prepared and converted.

For the target `kernels` it is lowered to onednn; for `qdq` it stays a graph of quantize and dequantize pairs, which a
compiler turns into integer kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    disable_observer,
    move_exported_model_to_eval,
    move_exported_model_to_train,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    QuantizationConfig,
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

from quantexp.config import ByLayer, Dynamic, Engine, Observer, Qat, Static
from quantexp.quant.arithmetic.percentile import percentile_range
from quantexp.quant.engine import reduces_range
from quantexp.quant.flows.lowered import Lowered, any_batch
from quantexp.quant.flows.qdq import QdqNetwork
from quantexp.quant.flows.working import taking
from quantexp.quant.inspection.promise import Wrapper
from quantexp.quant.selection import kept_in_float
from quantexp.tasks.inputs import Batch

HANDLES = "nn.Linear, nn.Conv1d and nn.Conv2d"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
OTHERS = "use quant.flow=fx or eager"
EPSILON = 2**-12  # the least scale, as torchao sets it
ATTENTION, DROPOUT = torch.ops.aten.scaled_dot_product_attention.default, 4  # the place of dropout_p in its arguments


class PercentileObserver(HistogramObserver):  # type: ignore[misc]
    """Choose the range that keeps `percentile` per cent of the values."""

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


class Exported(Wrapper):
    """A prepared graph, which can be trained and evaluated like any network.

    Args:
        model: The prepared graph.
        example: A batch of inputs, with which it is exported again to be lowered.
        training: Whether the network was exported to be trained.
    """

    def __init__(self, model: fx.GraphModule, example: Batch, training: bool = False) -> None:
        nn.Module.__init__(self)
        self.model = model
        self.example = example
        self.training = training

    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.model(*batch)
        return logits

    def train(self, mode: bool = True) -> Exported:
        """Switch dropout and batch normalisation, which stand in the graph as they were exported."""
        (move_exported_model_to_train if mode else move_exported_model_to_eval)(self.model)
        _switch_attention(self.model, mode)
        self.training = mode
        return self


def dynamic(option: Dynamic, model: nn.Module, precision: str, example: Batch, target: str) -> nn.Module:
    """Quantize the Linear layers of `model` dynamically."""
    config = get_default_x86_inductor_quantization_config(is_dynamic=True, reduce_range=_reduces(None))
    quantizer = _quantizer(option, model, config)
    for name, module in model.named_modules():
        if isinstance(module, CONVOLUTIONS):  # has no dynamic kernel: it would round its values, and compute in float
            quantizer.set_module_name_qconfig(name, None)
    prepared = Exported(_prepared(prepare_pt2e, _exported(model.eval(), example), quantizer), example)
    calibrate(prepared, [example])  # for the weights, which are observed when the network runs
    return convert(prepared, target)


def prepare_static(option: Static, model: nn.Module, example: Batch) -> nn.Module:
    """Export `model` and insert observers. `example` is one batch of inputs."""
    config = get_default_x86_inductor_quantization_config(reduce_range=_reduces(option.reduce_range))
    settings = {"percentile": option.percentile} if option.observer is Observer.percentile else {}
    observer = OBSERVERS[option.observer].with_args(eps=EPSILON, **settings)
    activation = dataclasses.replace(config.input_activation, observer_or_fake_quant_ctr=observer)
    config = dataclasses.replace(config, input_activation=activation, output_activation=activation)
    exported = _exported(model.eval(), example)
    return Exported(_prepared(prepare_pt2e, exported, _quantizer(option, model, config)), example)


def prepare_qat(option: Qat, model: nn.Module, example: Batch) -> nn.Module:
    """Export `model` and insert fake quant."""
    config = get_default_x86_inductor_quantization_config(is_qat=True, reduce_range=_reduces(option.reduce_range))
    exported = _exported(model.train(), example)
    return Exported(_prepared(prepare_qat_pt2e, exported, _quantizer(option, model, config)), example, training=True)


def freeze_observers(prepared: nn.Module) -> None:
    """Keep the ranges that fake quant has found so far."""
    prepared.apply(disable_observer)


@torch.no_grad()
def calibrate(prepared: nn.Module, batches: Iterable[Batch]) -> None:
    """Show the batches to the observers."""
    for batch in batches:
        prepared(*batch)


def convert(prepared: nn.Module, target: str) -> nn.Module:
    """Replace what was observed by integer kernels, or by pairs of quantize and dequantize."""
    assert isinstance(prepared, Exported)
    if prepared.training:  # the structure of a stored network was never trained
        prepared.eval()
    with taking("quant.flow=pt2e needs a network that torchao converts and lowers to onednn", OTHERS):
        converted = convert_pt2e(prepared.model)
        return QdqNetwork(converted) if target == "qdq" else Lowered(converted, prepared.example)


def _switch_attention(graph: Any, training: bool) -> None:
    """Switch the dropout of fused attention: an argument of its operator, which torchao leaves as it was exported."""
    for node in graph.graph.nodes:
        if node.target is not ATTENTION or len(node.args) <= DROPOUT:
            continue
        node.meta.setdefault("dropout", node.args[DROPOUT])
        node.update_arg(DROPOUT, node.meta["dropout"] if training else 0.0)
    graph.recompile()


def _exported(model: nn.Module, example: Batch) -> fx.GraphModule:
    with taking("quant.flow=pt2e needs a network that torch.export takes for batches of any size", OTHERS):
        graph: fx.GraphModule = torch.export.export(model, example, dynamic_shapes=any_batch(example)).module()
    return graph


def _prepared(prepare: Any, exported: fx.GraphModule, quantizer: X86InductorQuantizer) -> fx.GraphModule:
    with taking("quant.flow=pt2e needs a network that torchao prepares", OTHERS):
        graph: fx.GraphModule = prepare(exported, quantizer)
    return graph


def _quantizer(option: ByLayer, model: nn.Module, config: QuantizationConfig) -> X86InductorQuantizer:
    quantizer = X86InductorQuantizer().set_global(config)
    for name in kept_in_float(option, model):
        quantizer.set_module_name_qconfig(name, None)
    return quantizer


def _reduces(asked: bool | None) -> bool:
    return reduces_range(Engine.onednn, asked)
