"""torchao's `quantize_`: each weight becomes a tensor subclass with its own quantization and multiplication."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.prototype.quantization.int4.inference_workflow import PrototypeInt4WeightOnlyConfig
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from torchao.utils import should_reduce_range

from quantexp.config import Dynamic, WeightOnly
from quantexp.quant.selection import kept_in_float
from quantexp.tasks.inputs import Batch

DYNAMICALLY = "nn.Linear"
INT4_OUTPUTS = 16  # the int4 kernels need a multiple of it


def dynamic(option: Dynamic, model: nn.Module, precision: str, example: Batch, target: str) -> nn.Module:
    """Quantize Linear layers in place: weights per channel, inputs per example."""
    reduce_range = should_reduce_range(torch.device("cpu"))
    config = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False, reduce_range=reduce_range)
    return _quantize(model, config, kept_in_float(option, model))


def weight_only(option: WeightOnly, model: nn.Module, precision: str) -> nn.Module:
    """Quantize the weights of Linear layers in place: int8 per channel, int4 per group.

    The int4 kernels multiply with bf16; for float32 torch only has a reference that is 100 times slower.
    """
    kept = {**unfit(option, model, precision), **kept_in_float(option, model)}
    if precision == "int8":
        return _quantize(model, Int8WeightOnlyConfig(set_inductor_config=False), kept)
    for name, module in model.named_modules():
        if type(module) is nn.Linear and name not in kept:
            module.to(torch.bfloat16)
            module.register_forward_pre_hook(_to_bf16)
            module.register_forward_hook(_to_float)
    return _quantize(
        model, PrototypeInt4WeightOnlyConfig(group_size=option.group_size, set_inductor_config=False), kept
    )


def _to_bf16(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.bfloat16() for tensor in inputs)


def _to_float(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.float()


def unfit(option: WeightOnly, model: nn.Module, precision: str) -> dict[str, str]:
    """Return the Linear layers that the kernels of the precision do not support, by name, with the reason."""
    found = {}
    for name, module in model.named_modules():
        if precision != "int4" or not isinstance(module, nn.Linear):
            continue
        if module.in_features % option.group_size:
            found[name] = f"its {module.in_features} inputs are not a multiple of quant.group_size={option.group_size}"
        elif module.out_features % INT4_OUTPUTS:
            found[name] = (
                f"its {module.out_features} outputs are not a multiple of {INT4_OUTPUTS}, as int4 kernels require"
            )
    return found


def _quantize(model: nn.Module, config: AOBaseConfig, kept: dict[str, str]) -> nn.Module:
    quantize_(model, config, lambda module, name: type(module) is nn.Linear and name not in kept)
    return model
