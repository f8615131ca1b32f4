"""Automatic mixed precision: trained from scratch under autocast, and run under autocast."""

from __future__ import annotations

from torch import nn

from quantexp.baselines import Baseline
from quantexp.config import Train
from quantexp.quant.base import Promise, Quantized
from quantexp.quant.casting import Autocast
from quantexp.quant.none import DTYPES
from quantexp.report.results import Training
from quantexp.tasks.base import TaskData
from quantexp.train import fit


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
