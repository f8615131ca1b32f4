"""The APIs that quantize, a file each, with the same functions as far as the API goes.

    dynamic(option, model, precision, example, target)   quantize what needs no calibration, as does `weight_only`
    prepare_static(option, model, example)                 insert observers; `calibrate` shows them batches
    prepare_qat(option, model, example)                    insert fake quant; `freeze_observers` keeps its ranges
    convert(prepared, target)                            put integer kernels in
    add_dynamic(converted, layers)                       quantize dynamically what was left to it

Each may change the model it is given. Only `fx` and `eager` import torch.ao, whose end is announced.
"""

from __future__ import annotations

import logging
from typing import Any

from quantexp.config import OVER_TORCH_AO, ByLayer
from quantexp.system.errors import QuantizationError
from quantexp.system.implementation import resolve


def flow_of(option: ByLayer) -> Any:
    """Return the module of the flow that `option` names. Raises QuantizationError if this torch lacks its API."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao registers an Enum in an outdated way
    try:
        return resolve(option.flow.implementation)
    except ImportError as error:
        import torch

        others = [flow.value for flow in option.flows if flow not in OVER_TORCH_AO]
        repair = f"use quant.flow={' or '.join(others)}, or an older torch" if others else "use an older torch"
        raise QuantizationError(
            f"quant.flow={option.flow} needs what torch {torch.__version__} does not have ({error}); {repair}"
        ) from error
