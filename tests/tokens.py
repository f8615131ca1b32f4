"""A task and a network as a user writes them: two inputs, token ids and a mask that says which of them count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantexp.results import InputSpec

WORDS, LENGTH, WIDTH, HIDDEN, CLASSES = 40, 12, 16, 8, 3
SPECS = (InputSpec("ids", (LENGTH,), "int64", 0, WORDS - 1), InputSpec("mask", (LENGTH,), "int64", 0, 1))


class Sentences:
    """Sentences of random words, of which a third are of the class; its words are the ones that are counted."""

    gives = "tokens"
    inputs = SPECS
    classes = CLASSES

    def train(self) -> tuple[tuple[Tensor, Tensor], Tensor]:
        return self._drawn(600, 0)

    def test(self) -> tuple[tuple[Tensor, Tensor], Tensor]:
        return self._drawn(150, 1)

    def _drawn(self, count: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, WORDS, (count, LENGTH), generator=draw)
        labels = torch.randint(0, CLASSES, (count,), generator=draw)
        ids = torch.where(torch.rand(ids.shape, generator=draw) < 1 / 3, labels[:, None], ids)
        lengths = torch.randint(LENGTH // 2, LENGTH + 1, (count, 1), generator=draw)
        return (ids, (torch.arange(LENGTH) < lengths).long()), labels


class Averages(nn.Module):
    """Embeds the tokens, averages those that count, and classifies the average."""

    takes: ClassVar[tuple[str, ...]] = ("tokens",)

    def __init__(self, inputs: Sequence[InputSpec], classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(int(inputs[0].high or 0) + 1, WIDTH)
        self.layers = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        embedded = self.embedding(ids)
        counted = mask.unsqueeze(-1).to(embedded.dtype)
        logits: Tensor = self.layers((embedded * counted).sum(1) / counted.sum(1).clamp(min=1))
        return logits
