"""Training and prediction, independent of quantization: a prepared network is trained like any other.

Batches are sliced from tensors in memory and the optimizer is fused, because with small networks a usual training loop
spends most of its time there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from quantexp.config import Device, Optimizer, Train
from quantexp.results import Training
from quantexp.system import openmp
from quantexp.system.environment import machine, threads, usable_cores
from quantexp.system.errors import TrainingError
from quantexp.system.terminal import progress
from quantexp.tasks.data import Split
from quantexp.tasks.inputs import Batch
from quantexp.tasks.objectives import Objective

LOG_EVERY = 50  # steps; reading the loss waits for the device
PREDICT_BATCH = 64  # fixed, because dynamic quantization chooses the range of inputs for each batch


def resolve_device(device: Device) -> torch.device:
    """Return the device for training. Raises TrainingError if it is cuda and there is no GPU."""
    available = torch.cuda.is_available()
    if device is Device.cuda and not available:
        raise TrainingError("train.device=cuda needs a GPU that torch can use, there is none; use train.device=auto")
    return torch.device("cuda" if available and device is not Device.cpu else "cpu")


def resolve_threads(count: int | None) -> int:
    """Return the number of CPU threads for training."""
    return count or usable_cores()


def fit(
    model: nn.Module,
    data: Split,
    objective: Objective,
    recipe: Train,
    *,
    seed: int,
    label: str,
    autocast: torch.dtype | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Training:
    """Train `model` in place, and leave it on the CPU in evaluation mode.

    Args:
        model: Called as `model(*batch)`; returns outputs for the objective.
        data: The training split; it is shuffled in each epoch.
        objective: Has the loss that is minimized.
        recipe: Epochs, batch size, learning rate, optimizer, device, threads.
        seed: Determines the order of the batches and the random numbers of the network.
        label: The text of the progress bar.
        autocast: Use autocast with this dtype; with float16 the loss is scaled.
        on_step: Called before each step with its number, from 0, and the total number of steps.

    Raises:
        TrainingError: If the device is not available, there are no labels, or the loss is not finite.
    """
    labels = data.labels
    if labels is None:
        raise TrainingError("training needs labels, these examples have none; use data=full or data=sample")
    device = resolve_device(recipe.device)
    count = resolve_threads(recipe.threads)
    if count > 1 and device.type == "cpu":
        openmp.warn_of_spinning()
    steps = recipe.epochs * math.ceil(len(data) / recipe.batch_size)
    order = torch.Generator().manual_seed(seed)
    with (
        threads(count),
        torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else []),
        progress(label, recipe.epochs * len(data)) as advance,
    ):
        torch.manual_seed(seed)
        take_step = _stepper(model.to(device).train(), objective, recipe, device, autocast)
        curve = _Curve(steps, recipe, advance)
        started = time.perf_counter()
        for _ in range(recipe.epochs):
            for batch, rows in data.batches(recipe.batch_size, torch.randperm(len(data), generator=order)):
                if on_step is not None:
                    on_step(curve.step, steps)
                curve.add(take_step(batch, labels[rows]), len(rows))
        seconds = time.perf_counter() - started
    model.cpu().eval()
    return Training(seconds, recipe.epochs, device.type, count, machine(), tuple(curve.steps), tuple(curve.losses))


@torch.no_grad()
def outputs(model: Callable[..., Tensor], data: Split) -> Tensor:
    """Return the outputs for all examples, shape (examples, classes), on the CPU in batches of 64."""
    return torch.cat([model(*batch) for batch, _ in data.batches(PREDICT_BATCH)])


def _stepper(
    model: nn.Module, objective: Objective, recipe: Train, device: torch.device, autocast: torch.dtype | None
) -> Callable[[Batch, Tensor], Tensor]:
    """Return the function that trains on one batch and returns the loss."""
    optimizer = _optimizer(model, recipe)
    scaler = torch.amp.GradScaler(device.type, enabled=autocast is torch.float16)

    def take_step(batch: Batch, labels: Tensor) -> Tensor:
        """Update the weights with one batch and return its loss."""
        # A new context for each step: in a single one, autocast would cache its first cast of the weights.
        with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            loss = objective.loss(model(*(tensor.to(device) for tensor in batch)), labels.to(device))
        optimizer.zero_grad()
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return take_step


def _optimizer(model: nn.Module, recipe: Train) -> torch.optim.Optimizer:
    if recipe.optimizer is Optimizer.sgd:
        return torch.optim.SGD(model.parameters(), recipe.learning_rate, fused=True)
    return torch.optim.Adam(model.parameters(), recipe.learning_rate, fused=True)


class _Curve:
    """The loss curve of a training: averaged, checked and shown every LOG_EVERY steps."""

    def __init__(self, total: int, recipe: Train, advance: Callable[[int, str], None]) -> None:
        self.step = 0
        self.steps: list[int] = []
        self.losses: list[float] = []
        self._total = total
        self._recipe = recipe
        self._advance = advance
        self._window: list[Tensor] = []
        self._examples = 0

    def add(self, loss: Tensor, examples: int) -> None:
        """Record the loss of a step. Raises TrainingError if the mean is not finite."""
        self.step += 1
        self._window.append(loss)
        self._examples += examples
        if self.step % LOG_EVERY and self.step != self._total:
            return
        mean = torch.stack(self._window).mean().item()
        if not math.isfinite(mean):
            raise TrainingError(
                f"the training loss must stay a finite number, it is {mean} at step {self.step} of "
                f"{self._total}; lower train.learning_rate (now {self._recipe.learning_rate:g}) or check the data"
            )
        self.steps.append(self.step)
        self.losses.append(mean)
        self._advance(self._examples, f"loss {mean:.3f}")
        self._window.clear()
        self._examples = 0
