"""Networks that take token ids and a mask of those that count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 16


class OnTokens(nn.Module):
    """Embeds the tokens and classifies the mean of those that count, after `mixed`."""

    takes = ("tokens",)

    def __init__(self, inputs: tuple, classes: int, **embedding: Any) -> None:
        super().__init__()
        self.words = int(inputs[0].high or 0) + 1
        self.embedding = nn.Embedding(self.words, WIDTH, **embedding)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        embedded, counted = self.mixed(self.embedding(ids), mask), mask.unsqueeze(-1).to(torch.float32)
        return self.head((embedded * counted).sum(1) / counted.sum(1).clamp(min=1))

    def mixed(self, embedded: Tensor, mask: Tensor) -> Tensor:
        return embedded


class Embedded(OnTokens):
    """An embedding and two Linear layers."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes)
        self.hidden = nn.Linear(WIDTH, WIDTH)

    def mixed(self, embedded: Tensor, mask: Tensor) -> Tensor:
        return torch.relu(self.hidden(embedded))


class SparseEmbedding(OnTokens):
    """An embedding with sparse gradients and a padding token."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes, sparse=True, padding_idx=0)


class Bag(nn.Module):
    """An EmbeddingBag and a Linear layer."""

    takes = ("tokens",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(int(inputs[0].high or 0) + 1, WIDTH, mode="sum")
        self.hidden, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.bag(ids * mask))))


class TokenLstm(OnTokens):
    """An embedding and an LSTM."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def mixed(self, embedded: Tensor, mask: Tensor) -> Tensor:
        return self.lstm(embedded)[0]


class TokenConv(OnTokens):
    """An embedding and a convolution over the tokens."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def mixed(self, embedded: Tensor, mask: Tensor) -> Tensor:
        return torch.relu(self.conv(embedded.transpose(1, 2))).transpose(1, 2)


class MaskedEncoder(OnTokens):
    """An encoder layer with a mask of padding."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)

    def mixed(self, embedded: Tensor, mask: Tensor) -> Tensor:
        return self.layer(embedded, src_key_padding_mask=mask == 0)


class TiedEmbedding(OnTokens):
    """A weight that is that of the embedding and of a Linear layer."""

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__(inputs, classes)
        self.scores = nn.Linear(WIDTH, self.words, bias=False)
        self.scores.weight = self.embedding.weight
        self.back = nn.Linear(self.words, WIDTH)

    def mixed(self, embedded: Tensor, mask: Tensor) -> Tensor:
        return torch.relu(self.back(torch.relu(self.scores(embedded))))
