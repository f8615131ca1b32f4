"""The parts of a run, for tests that need one of them: data, float network, quantized network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantexp.config import Experiment
from quantexp.mission import load
from quantexp.quant.inspection.evidence import inspect, operators
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods import quantize
from quantexp.quant.methods.work import Form, Work
from quantexp.results import Account, Evidence
from quantexp.tasks.data import TaskData
from quantexp.tasks.inputs import Batch
from quantexp.training.baseline import Baseline, trained


def work(experiment: Experiment, data: TaskData | None = None, baseline: Baseline | None = None) -> Work:
    """What a method is given in a run of the experiment."""
    data = data or load(experiment)
    form = Form(str(experiment.precision), data.example, experiment.runtime.target)
    return Work(baseline or trained(experiment, data), data, experiment.train, form)


def quantized(experiment: Experiment, data: TaskData | None = None, baseline: Baseline | None = None) -> Quantized:
    """The quantized network of the experiment."""
    return quantize(experiment.quant, work(experiment, data, baseline))


def form(precision: str, *batch: Tensor) -> Form:
    """The form of a network for kernels."""
    return Form(precision, batch)


def evidence(network: Quantized, batch: Batch) -> Evidence:
    """What inspection finds in a network that runs eagerly."""
    ran = operators(network.model, batch)
    return inspect(network, ran, None, Account(sum(operator.macs for operator in ran)))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same state, bit for bit."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
