"""Automatic mixed precision: trained from scratch under autocast, and run under autocast."""

from __future__ import annotations

from torch import nn

from quantexp.config import Train
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.casting import Autocast
from quantexp.quant.methods.none import DTYPES
from quantexp.results import Training
from quantexp.tasks.data import TaskData
from quantexp.training.baseline import Baseline
from quantexp.training.loop import fit


def apply(baseline: Baseline, data: TaskData, train: Train, precision: str) -> Quantized:
    """Train a fresh model, from the same first weights as the float model, under autocast."""

    def run_training(model: nn.Module) -> Training:
        label = f"amp {precision}"
        return fit(model, data.train, train, seed=baseline.seed, label=label, autocast=DTYPES[precision])

    trained = baseline.trained_once("amp", train, {"precision": precision}, baseline.fresh, run_training)
    promise = Promise("the operators that autocast lowers", operators=precision)
    return Quantized(skeleton(trained.model, precision), promise, training=trained.training)


def skeleton(model: nn.Module, precision: str) -> nn.Module:
    """Return `model` in the structure that `apply` leaves."""
    return Autocast(model, DTYPES[precision])
