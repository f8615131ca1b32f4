"""The flows: the APIs that quantize. There is one module for each, with those of these functions that it supports.

    dynamic(option, model, precision, example, target)   quantize without calibration, like `weight_only`
    prepare_static(option, model, example, target)       insert observers; `calibrate` runs batches through them
    prepare_qat(option, model, example, target)          insert fake quant; `freeze_observers` fixes its ranges
    convert(prepared, target)                            insert integer kernels
    add_dynamic(converted, layers)                       quantize further layers dynamically
    trace(model, example)                                the graph of the float network, if the flow traces it
    require()                                            ConfigError without the packages of a flow of one runtime

Each function may change its model in place; those of quantexp replace weights and write into none, so the model that
they are given shares the float weights. Only `fx` and `eager` import torch.ao, which is deprecated.
"""

from __future__ import annotations

from typing import Any

from quantexp.config import OF_ONE_RUNTIME, OVER_TORCH_AO, ByLayer, Flow, Quant
from quantexp.system.errors import QuantizationError
from quantexp.system.extras import before_torchao
from quantexp.system.implementation import resolve


def require(option: Quant) -> None:
    """Check that the packages of a flow of one runtime are installed. Raises ConfigError."""
    if isinstance(option, ByLayer) and option.flow in OF_ONE_RUNTIME:
        flow_of(option).require()


def flow_of(option: ByLayer) -> Any:
    """Return the module of the flow in `option`. Raises QuantizationError if this version of torch lacks its API."""
    before_torchao()
    flow: Flow = option.flow or option.candidates()[0]
    try:
        return resolve(flow.implementation)
    except ImportError as error:
        import torch

        others = [flow.value for flow in option.portable_flows() if flow not in OVER_TORCH_AO]
        repair = f"use quant.flow={' or '.join(others)}, or an older torch" if others else "use an older torch"
        raise QuantizationError(
            f"quant.flow={flow} is not supported by torch {torch.__version__} ({error}); {repair}"
        ) from error
