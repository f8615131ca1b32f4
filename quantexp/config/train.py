"""The recipe by which the float model, `qat` and `amp` are trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from quantexp.config.option import WEIGHTS, Affects, Option, option
from quantexp.system.errors import ConfigError


class Optimizer(StrEnum):
    """The rule that turns gradients into steps."""

    adam = "adam"
    sgd = "sgd"


class Device(StrEnum):
    """Where training runs. Benchmarks run on the CPU whatever is chosen here."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True)
class ModelReference:
    """A version in MLflow's model registry, by its number or by an alias; the other one is empty."""

    name: str
    alias: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"

    @classmethod
    def parse(cls, text: str) -> ModelReference | None:
        """Return what a text that starts with models:/ names, None for other texts. Raises ConfigError."""
        if not text.startswith("models:/"):
            return None
        found = re.fullmatch(r"models:/([^/@:]+)(?:@([\w-]+)|/(\d+))", text)
        if found is None:
            raise ConfigError(f"a registered network is models:/NAME@ALIAS or models:/NAME/VERSION, got {text}")
        return cls(found[1], found[2] or "", found[3] or "")


@dataclass
class Train(Option):
    """The training recipe; the defaults are the lab's."""

    group: ClassVar[str] = "train"
    choice_affects: ClassVar[Affects] = WEIGHTS
    name: ClassVar[str] = "default"

    epochs: int = option("passes over the training split", 2, affects=WEIGHTS, at_least=1)
    batch_size: int = option("examples per step", 64, affects=WEIGHTS, at_least=1)
    learning_rate: float = option("step size of the optimizer", 0.001, affects=WEIGHTS, above=0)
    optimizer: Optimizer = option("adam or sgd", Optimizer.adam, affects=WEIGHTS)
    device: Device = option("auto (a GPU if there is one), cpu or cuda", Device.auto, affects=WEIGHTS)
    threads: int | None = option(
        "CPU threads while training; null takes every core", None, affects=WEIGHTS, at_least=1, at_most=1024
    )
    examples: int | None = option(
        "how many training examples are used, drawn with the seed of the run; null: all",
        None,
        affects=WEIGHTS,
        at_least=1,
    )
    checkpoint: str | None = option(
        "float weights to start from, not trained: a file with a state dict, runs:/RUN_ID of a run, models:/NAME@ALIAS "
        "or models:/NAME/VERSION of MLflow's registry, or torchvision (torchvision:NAME) for the weights that "
        "torchvision has for its network",
        None,
        affects=WEIGHTS,
    )

    @property
    def checkpoint_run(self) -> str | None:
        """The id of the run that `checkpoint` names, as runs:/RUN_ID or as 32 hex digits; None for a file."""
        found = re.fullmatch(r"runs:/([A-Za-z0-9][\w-]{0,255})|([0-9a-f]{32})", self.checkpoint or "")
        return (found[1] or found[2]) if found else None

    @property
    def checkpoint_model(self) -> ModelReference | None:
        """What `checkpoint` names in MLflow's model registry; None if it names something else."""
        return ModelReference.parse(self.checkpoint or "")

    @property
    def torchvision_weights(self) -> str | None:
        """The name of torchvision's weights that `checkpoint` names; None if it names something else."""
        found = re.fullmatch(r"torchvision(?::(\w+))?", self.checkpoint or "")
        return (found[1] or "DEFAULT") if found else None

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        try:
            ModelReference.parse(self.checkpoint or "")
        except ConfigError as error:
            yield f"train.checkpoint: {error}"
