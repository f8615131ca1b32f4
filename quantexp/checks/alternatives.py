"""Where kernels are wrong: the engine, the flow or the layers to exclude that are right, found by trying them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from quantexp.checks.kernels import check_arithmetic, output_sqnr_db
from quantexp.config import ByLayer, Engine, Quant
from quantexp.quant.engine import supported_engines
from quantexp.quant.methods import quantize, skeleton
from quantexp.quant.methods.choice import in_flow
from quantexp.quant.methods.work import Work
from quantexp.state.copies import copied
from quantexp.system.errors import ConfigError, QuantizationError
from quantexp.tasks.inputs import Batch

log = logging.getLogger(__name__)

CALIBRATION_EXAMPLES = 64  # at most: ranges that are a little narrower do not hide what is wrong
ENGINES = (Engine.fbgemm, Engine.x86, Engine.onednn, Engine.qnnpack)  # in the order in which they are tried


def right_one(option: Quant, work: Work, batch: Batch, wrong: Sequence[str], least_db: float | None) -> str | None:
    """Return the override of the first alternative whose kernels are right; None if there is none.

    Args:
        option: The method that is wrong; one that trains is tried without training.
        work: The arguments of the method.
        batch: The inputs of the comparison.
        wrong: The names of the layers that compute something else, to be excluded.
        least_db: The least SQNR of the outputs; None if the outputs may differ, as after training.
    """
    calibration = work.data.calibration
    few = calibration.take(torch.arange(min(CALIBRATION_EXAMPLES, len(calibration))))
    work = replace(work, advise=False, data=replace(work.data, calibration=few))
    for typed, change in _alternatives(option, work, wrong):
        try:
            alternative = change()
            log.info("check     whether %s is right", typed)
            if alternative.trains:
                network = skeleton(alternative, copied(work.baseline.model), work.form)
            else:
                network = quantize(alternative, work).model
            check_arithmetic(network, batch, alternative.packs_for)
            if least_db is None or output_sqnr_db(work.baseline.model, network, batch) >= least_db:
                return typed
        except (ConfigError, QuantizationError):  # that flow lacks a setting of the user, or cannot quantize it
            continue
    return None


def _alternatives(option: Quant, work: Work, wrong: Sequence[str]) -> Iterator[tuple[str, Callable[[], ByLayer]]]:
    """Yield what could be changed, as it is typed, and what makes the changed method."""
    if not isinstance(option, ByLayer):
        return
    if option.engine is not None:
        for engine in ENGINES:
            if engine is not option.engine and engine.value in supported_engines():
                yield f"quant.engine={engine.value}", partial(replace, option, engine=engine)
    for flow in option.portable_flows():
        if flow is not option.flow and work.executes(type(option), flow):
            yield in_flow(option, flow)
    if wrong:
        yield f"quant.exclude=[{','.join(wrong)}]", partial(replace, option, exclude=[*option.exclude, *wrong])
