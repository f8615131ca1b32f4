"""Small experiments with a cache of their own, and a count of what they train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import quantexp.quant.methods.amp
import quantexp.quant.methods.qat
import quantexp.training.baseline
import quantexp.training.loop
from quantexp.config import Experiment, Mlp, Train
from quantexp.results import Training


@pytest.fixture
def small(sample: Callable[..., Experiment], tmp_path: Path) -> Callable[..., Experiment]:
    """Build a quick experiment whose cache is empty and its own."""

    def build(**parts: object) -> Experiment:
        settings: dict[str, object] = {
            "model": Mlp(hidden=[8]),
            "train": Train(epochs=1, threads=1),
            "cache_dir": str(tmp_path / "cache"),
        }
        return sample(**{**settings, **parts})

    return build


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the trainings: the label of each one that is run, in order."""
    labels: list[str] = []

    def counting(model: nn.Module, *arguments: object, label: str, **settings: object) -> Training:
        labels.append(label)
        return quantexp.training.loop.fit(model, *arguments, label=label, **settings)  # type: ignore[arg-type]

    for module in (quantexp.training.baseline, quantexp.quant.methods.qat, quantexp.quant.methods.amp):
        monkeypatch.setattr(module, "fit", counting)
    return labels
