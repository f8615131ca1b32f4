"""FX graph mode of torch.ao: `prepare` inserts observers or fake quant, `convert` inserts integer kernels.

FX treats all tensors as floats and also observes token ids and masks. Those observers are removed, and those of scores
with a mask of -inf or -1e9: no range of int8 keeps the scores apart. Operators on such tensors compute in float.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.ao.nn.intrinsic.modules.fused import _FusedModule
from torch.ao.quantization import (
    FakeQuantizeBase,
    ObserverBase,
    QConfig,
    QConfigMapping,
    disable_observer,
    get_default_qat_qconfig_mapping,
    get_default_qconfig_mapping,
)
from torch.ao.quantization.quantize_fx import convert_fx, fuse_fx, prepare_fx, prepare_qat_fx
from torch.nn import functional

from quantexp.config import Dynamic, Granularity, Qat, Static
from quantexp.quant.flows.eager import quantize_dynamic
from quantexp.quant.flows.embeddings import EMBEDDINGS, embeddings
from quantexp.quant.flows.modes import Traced, constants_of_modes
from quantexp.quant.flows.qconfigs import EMBEDDING, dynamic_qconfig, qat_qconfig, static_qconfig
from quantexp.quant.flows.working import UnquantizableError, explain_failure, with_numbers_as_padding, working
from quantexp.quant.inspection.layers import FUNCTIONAL, layer_of
from quantexp.quant.selection import dynamic_layers, kept_in_float
from quantexp.state.copies import materialized, to_run
from quantexp.tasks.inputs import Batch

HANDLES = "the layers that FX can quantize"
DYNAMICALLY = "nn.Linear"
WHOLE = (nn.Transformer, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)
MASKED = -1e3  # masks in use add -1e4 or less, scores are above
CONVOLUTIONS = {functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3}  # and their dimensions
DEFAULTS: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}  # of them, in order
TRACEABLE = "quant.flow=fx needs a network that torch.ao can trace and fuse"


def dynamic(option: Dynamic, model: nn.Module, precision: str, example: Batch, target: str) -> nn.Module:
    """Quantize the Linear layers of `model` dynamically, and embeddings if asked for."""
    kept, mapping = kept_in_float(option, model), QConfigMapping()
    for name, module in model.named_modules():
        if type(module) is nn.Linear and name not in kept:
            mapping.set_module_name(name, dynamic_qconfig(precision, option.granularity))
    for name in embeddings(option, model):
        mapping.set_module_name(name, EMBEDDING)
    hooked = _hooked(model)
    with _traceable(model):
        prepared = prepare_fx(_fused(model.eval()), mapping, example)
    _require_hooks(hooked, prepared)
    return convert(prepared, target)


def prepare_static(option: Static, model: nn.Module, example: Batch, target: str) -> nn.Module:
    """Insert observers into `model`. `example` is one batch of inputs."""
    mapping, hooked = _mapping(option, model, static_qconfig(option, model)), _hooked(model)
    with _traceable(model):  # here, as prepare_fx drops a ReLU behind a normalisation that it folds
        fused = _fused(with_numbers_as_padding(model.eval()))
    _require_hooks(hooked, fused)
    return _prepared(prepare_fx, fused, mapping, example)


def add_dynamic(converted: nn.Module, layers: list[str]) -> nn.Module:
    """Quantize the named layers dynamically, after the conversion left them in float.

    FX itself does not quantize a static layer that follows a dynamic one.
    """
    return quantize_dynamic(converted, dict.fromkeys(layers, dynamic_qconfig("int8", Granularity.per_tensor)), "int8")


def prepare_qat(option: Qat, model: nn.Module, example: Batch, target: str) -> nn.Module:
    """Insert fake quant into `model`."""
    with _traceable(model):
        constants = constants_of_modes(with_numbers_as_padding(model.train()))
    mapping = _mapping(option, model, qat_qconfig(option, model))
    return Traced(_prepared(prepare_qat_fx, model, mapping, example), constants)


def trace(model: nn.Module, example: Batch) -> nn.Module:
    """Return the graph that torch.ao traces of a copy of `model`, with nothing to quantize."""
    with _traceable(model), working(None):
        graph: nn.Module = prepare_fx(materialized(to_run(model)).eval(), QConfigMapping(), example)
    return graph


def _fused(model: nn.Module) -> fx.GraphModule:
    """Return the graph of `model` with fused modules, each with a ReLU of its own.

    One that other nodes call too would be named as a part of the fused module, which is replaced.
    """
    graph: fx.GraphModule = fuse_fx(model)
    for module in graph.modules():
        if isinstance(module, _FusedModule) and type(module[-1]) is nn.ReLU:
            module[-1] = nn.ReLU()
    return graph


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Trace `model`. Raises UnquantizableError if that fails, or if the graph could not be stored."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # the graph would hold a C++ object instead of its weights
            raise UnquantizableError(
                f"quant.flow=fx needs modules in Python, {name or 'the network'} is a script", name
            )
    with explain_failure(TRACEABLE):
        yield


def freeze_observers(prepared: nn.Module) -> None:
    """Fix the ranges of fake quant at their current values."""
    prepared.apply(disable_observer)


@torch.no_grad()
def calibrate(prepared: nn.Module, batches: Iterable[Batch]) -> None:
    """Run the batches through the network, so that its observers record the ranges."""
    for batch in batches:
        prepared(*batch)


def convert(prepared: nn.Module, target: str) -> nn.Module:
    """Replace the prepared layers by integer kernels."""
    prepared = prepared.eval()
    graph: Any = prepared.model if isinstance(prepared, Traced) else prepared
    _list_settings(graph)
    functions, hooked = _functions(graph), _hooked(graph)
    with explain_failure(TRACEABLE):
        converted: fx.GraphModule = convert_fx(graph)
    _require_hooks(hooked, converted)
    for node in converted.graph.nodes:
        node.meta.pop("target_dtype_info", None)  # its observers would make the float layers stay in memory
    converted.meta[FUNCTIONAL] = {
        str(weight.target): functions[node.name]
        for node in converted.graph.nodes
        if node.name in functions
        for weight in node.all_input_nodes
        if isinstance(getattr(converted, str(weight.target), None), torch.ScriptObject)
    }
    return converted


def _hooked(model: nn.Module) -> list[str]:
    """Return the names of the layers of torch with hooks; into all other modules torch.ao traces, with their hooks."""
    return [
        name
        for name, module in model.named_modules()
        if _has_hooks(module)
        and type(module).__module__.startswith(("torch.nn.", "torch.ao."))
        and not isinstance(module, nn.Sequential)
    ]


def _has_hooks(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _require_hooks(hooked: list[str], made: nn.Module) -> None:
    """Check that the layers which were replaced have their hooks. Raises UnquantizableError."""
    there = dict(made.named_modules())
    for name in hooked:
        if not _has_hooks(there.get(name)):
            raise UnquantizableError(
                f"quant.flow=fx must not lose what hooks compute, but it replaces {name}, which has some", name
            )


def _list_settings(graph: Any) -> None:
    """Give convolutions that are functions all their arguments, with lists for numbers, in place: kernels need both."""
    for node in graph.graph.nodes:
        if dimensions := CONVOLUTIONS.get(node.target):
            given = {**DEFAULTS, **dict(zip(DEFAULTS, node.args[2:], strict=False)), **node.kwargs}
            inputs = [*node.args[:2], *(given.pop(name) for name in ("input", "weight") if name in given)]
            settings = {
                name: [value] * dimensions if isinstance(value, int) and name != "groups" else value
                for name, value in given.items()
            }
            node.args, node.kwargs = (*inputs, *settings.values()), {}


def _functions(prepared: Any) -> dict[str, str]:
    """Return the layers that are functions, such as F.linear with a parameter, by the names of their nodes."""
    found = {}
    for node in prepared.graph.nodes:
        if node.op == "call_function":
            sources = (*node.all_input_nodes, *(source.args[0] for source in node.all_input_nodes if source.args))
            for path in (str(source.target) for source in sources if getattr(source, "op", "") == "get_attr"):
                if operator.attrgetter(path)(prepared).dim() > 1:
                    found[node.name] = layer_of(prepared, path)
    return found


def _prepared(
    prepare: Callable[..., fx.GraphModule], model: nn.Module, mapping: QConfigMapping, example: Batch
) -> nn.Module:
    hooked = _hooked(model)
    with explain_failure(TRACEABLE):
        prepared = prepare(with_numbers_as_padding(model), mapping, example)
        _require_hooks(hooked, prepared)
        run = _Run(to_run(prepared).eval())
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            run.run(*example)
    for node in list(prepared.graph.nodes):
        if node.name in run.without_range:
            node.replace_all_uses_with(node.args[0])
            prepared.graph.erase_node(node)
    if run.without_range:
        prepared.delete_all_unused_submodules()
        prepared.recompile()
    return prepared


class _Run(fx.Interpreter):
    """An interpreter that skips observers, and records those whose input has no range for int8."""

    def __init__(self, prepared: fx.GraphModule) -> None:
        super().__init__(prepared)
        self.without_range: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; an observer returns its input."""
        if n.op != "call_module" or not isinstance(self.fetch_attr(str(n.target)), ObserverBase | FakeQuantizeBase):
            return super().run_node(n)
        (observed,), _ = self.fetch_args_kwargs_from_env(n)
        if isinstance(observed, torch.Tensor) and not _has_range(observed):
            self.without_range.add(n.name)
        return observed


def _has_range(observed: torch.Tensor) -> bool:
    """Return whether int8 can represent a tensor: no integers, no infinities, not all but a mask within one step."""
    if not observed.is_floating_point() or not bool(torch.isfinite(observed).all()):
        return False
    masked = observed <= MASKED
    if not bool(masked.any()):
        return True
    others = observed[~masked]
    step = (observed.max() - observed.min()) / 255
    return others.numel() > 0 and bool(others.max() - others.min() >= step)


def _inside_leaves(model: nn.Module) -> Iterator[str]:
    """Yield the parts of transformer layers of torch, which FX calls as a whole and must not change."""
    for name, module in model.named_modules():
        if isinstance(module, WHOLE):
            yield from (f"{name}.{part}".lstrip(".") for part, _ in module.named_modules() if part)


def _mapping(option: Static | Qat, model: nn.Module, qconfig: QConfig) -> QConfigMapping:
    for name, module in model.named_modules():
        if isinstance(module, nn.PReLU):
            rule = "quant.flow=fx cannot leave PReLU in float, and its int8 kernel multiplies positive values too"
            raise UnquantizableError(f"{rule}; the network has {name}")
    # The default mappings have fixed ranges for sigmoid and similar operators; only the global qconfig is replaced.
    default = get_default_qat_qconfig_mapping if isinstance(option, Qat) else get_default_qconfig_mapping
    mapping = default(str(option.engine)).set_global(qconfig)
    for kind in EMBEDDINGS:
        mapping.set_object_type(kind, None)
    others = dynamic_layers(option, model) if isinstance(option, Static) else []
    for name in (*kept_in_float(option, model), *others, *_inside_leaves(model)):
        mapping.set_module_name(name, None)
    return mapping
