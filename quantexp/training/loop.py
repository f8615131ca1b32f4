"""Training and prediction, independent of quantization: a prepared network is trained like any other.

Batches are sliced from tensors in memory and the optimizer is fused, because with small networks a usual training loop
spends most of its time there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantexp.config import Device, Optimizer, Train
from quantexp.results import Training
from quantexp.system import openmp
from quantexp.system.environment import machine, threads, usable_cores
from quantexp.system.errors import QuantexpError, TrainingError, out_of_memory
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
    shorten: bool = True,
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
        shorten: Leave out what is padding in all examples of a batch; not for a network that was captured for one
            length.
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
    sizes = batch_sizes(len(data), recipe.batch_size)
    steps = recipe.epochs * len(sizes)
    order = torch.Generator().manual_seed(seed)
    with (
        threads(count),
        torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else []),
        progress(label, recipe.epochs * len(data)) as advance,
    ):
        torch.manual_seed(seed)
        take_step = _stepper(model.to(device).train(), objective, recipe, device, autocast)
        curve = _Curve(steps, recipe, advance, data)
        started = time.perf_counter()
        for _ in range(recipe.epochs):
            for batch, rows in data.batches(sizes, torch.randperm(len(data), generator=order)):
                if on_step is not None:
                    on_step(curve.step, steps)
                batch = data.for_training(data.shortened(batch) if shorten else batch)
                curve.add(take_step(batch, labels[rows]), len(rows))
        seconds = time.perf_counter() - started
    model.cpu().eval()
    model.zero_grad()  # gradients would take as much memory as the weights
    return Training(seconds, recipe.epochs, device.type, count, machine(), tuple(curve.steps), tuple(curve.losses))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that training changes; those with requires_grad=False stay as they are."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def batch_sizes(examples: int, size: int) -> list[int]:
    """Return the sizes of the batches of an epoch: `size` examples each, and the rest.

    A rest of one example joins the batch before it: batch normalisation cannot take the statistics of one example.
    The batches are the same for each network and method, so that trainings stay comparable.
    """
    whole, rest = divmod(examples, size)
    if rest == 1 and whole:
        return [*[size] * (whole - 1), size + 1]
    return [*[size] * whole, *([rest] if rest else [])]


@torch.no_grad()
def outputs(model: Callable[..., Tensor], data: Split) -> Tensor:
    """Return the outputs for all examples, shape (examples, classes), on the CPU in batches of 64."""
    found: Tensor | None = None
    at = 0
    for batch, rows in data.batches(PREDICT_BATCH):
        predicted = model(*batch)
        if found is None:
            found = predicted.new_empty((len(data), *predicted.shape[1:]))
        found[at : at + len(rows)] = predicted
        at += len(rows)
    assert found is not None, "there are examples"
    return found


def _stepper(
    model: nn.Module, objective: Objective, recipe: Train, device: torch.device, autocast: torch.dtype | None
) -> Callable[[Batch, Tensor], Tensor]:
    """Return the function that trains on one batch and returns the loss. Raises TrainingError if it cannot."""
    parameters = trainable(model)
    if not parameters:
        raise TrainingError(
            "training needs parameters that it can change, all of this network are frozen (requires_grad=False) or it "
            "has none; use a method without training, or set requires_grad in the network"
        )
    optimizer = _optimizer(parameters, recipe)
    scaler = torch.amp.GradScaler(device.type, enabled=autocast is torch.float16)

    def take_step(batch: Batch, labels: Tensor) -> Tensor:
        """Update the weights with one batch and return its loss."""
        with _clear_errors(len(labels)):
            # A new context for each step: in a single one, autocast would cache its first cast of the weights.
            with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                loss = objective.loss(model(*(tensor.to(device) for tensor in batch)), labels.to(device))
            if not loss.requires_grad:
                raise TrainingError(
                    "the loss must depend on the parameters that are trained, its gradient is cut off; "
                    "leave torch.no_grad(), detach() and .data out of forward(), and let the parameters that it uses "
                    "be trained (requires_grad)"
                )
            optimizer.zero_grad()
            torch.autograd.backward(scaler.scale(loss))
            _make_dense(parameters)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return take_step


@contextmanager
def _clear_errors(examples: int) -> Iterator[None]:
    """Turn what a network raises while it is trained into a TrainingError with the reason."""
    try:
        yield
    except Exception as error:  # the user's code can raise anything
        if isinstance(error, QuantexpError) or out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        repair = "correct forward(), or use weights and a method without training (train.checkpoint, quant=static)"
        if examples == 1 and "more than 1 value per channel" in str(error):
            repair = "batch normalisation needs at least two examples: set train.batch_size=2 or more"
        raise TrainingError(
            f"the network must run in training mode, forward and backward, on a batch of {examples}, "
            f"but it failed ({reason}); {repair}"
        ) from error


def _make_dense(parameters: Sequence[nn.Parameter]) -> None:
    """Make sparse gradients dense, as of nn.Embedding(sparse=True): the fused optimizers take no others."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            parameter.grad = parameter.grad.to_dense()


def _optimizer(parameters: Sequence[nn.Parameter], recipe: Train) -> torch.optim.Optimizer:
    if recipe.optimizer is Optimizer.sgd:
        return torch.optim.SGD(parameters, recipe.learning_rate, fused=True)
    return torch.optim.Adam(parameters, recipe.learning_rate, fused=True)


class _Curve:
    """The loss curve of a training: averaged, checked and shown every LOG_EVERY steps."""

    def __init__(self, total: int, recipe: Train, advance: Callable[[int, str], None], data: Split) -> None:
        self.step = 0
        self.steps: list[int] = []
        self.losses: list[float] = []
        self._total = total
        self._recipe = recipe
        self._advance = advance
        self._data = data
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
                f"{self._total}; {self._cause()}"
            )
        self.steps.append(self.step)
        self.losses.append(mean)
        self._advance(self._examples, f"loss {mean:.3f}")
        self._window.clear()
        self._examples = 0

    def _cause(self) -> str:
        """Return why the loss is not finite, and the repair."""
        if found := _not_finite(self._data):
            return f"{found}; correct the data"
        if not self.steps and not bool(torch.isfinite(self._window[0])):
            return (
                "it was not finite before the first update, and all inputs are finite: forward() gives outputs that "
                "are not finite, as after a division by zero or a softmax over a row of -inf; correct it"
            )
        return f"lower train.learning_rate (now {self._recipe.learning_rate:g})"


def _not_finite(data: Split) -> str:
    """Return which input of which example is not finite; empty if all are."""
    for batch, rows in data.batches(PREDICT_BATCH):
        for number, tensor in enumerate(batch):
            bad = ~torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
            if bool(bad.any()):
                return f"input {number} of training example {int(rows[bad][0])} is not finite"
    return ""
