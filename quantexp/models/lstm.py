"""A recurrent network: an embedding, LSTM layers and a Linear layer.

With `predicts=token` it has the shape of a language model: the Linear layer gives the logits of the next token after
each token (Zaremba et al. 2014, Recurrent neural network regularization, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from quantexp.config import Lstm, Predicts
from quantexp.results import InputSpec


class LSTM(nn.Module):
    """LSTM layers over a sequence, and Linear on the mean of their states, or on each of them.

        tokens:   ids and mask (batch, length) -> (batch, length, embedding)
        sequence: (batch, length, values)

    The output has shape (batch, classes), or (batch, tokens, length) where the next token is predicted.

    Args:
        inputs: The specs of the ids and the mask, or of the sequence.
        classes: Width of the output; the number of tokens where the next token is predicted.
        embedding: Width of the embedding, if the inputs are tokens.
        hidden: Width of the LSTM layers.
        layers: Number of LSTM layers.
        each: Whether there is an output for each state.
    """

    def __init__(
        self, inputs: Sequence[InputSpec], classes: int, *, embedding: int, hidden: int, layers: int, each: bool
    ) -> None:
        super().__init__()
        self.each = each
        values = inputs[0].measured[-1]
        if inputs[0].dtype == "int64":
            self.embedding = nn.Embedding(tokens_of(inputs), embedding)
            values = embedding
        self.lstm = nn.LSTM(values, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, classes)

    def forward(self, *batch: Tensor) -> Tensor:
        raise NotImplementedError


class TokenLSTM(LSTM):
    """The network for tokens; states of padding do not count."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        states, _ = self.lstm(self.embedding(ids))
        counted = mask.unsqueeze(-1).to(states.dtype)
        means = (states * counted).sum(1) / counted.sum(1).clamp(min=1)
        logits: Tensor = self.output(states).transpose(1, 2) if self.each else self.output(means)
        return logits


class SequenceLSTM(LSTM):
    """The network for sequences of features."""

    def forward(self, values: Tensor) -> Tensor:  # type: ignore[override]
        states, _ = self.lstm(values)
        logits: Tensor = self.output(states).transpose(1, 2) if self.each else self.output(states.mean(1))
        return logits


def tokens_of(inputs: Sequence[InputSpec]) -> int:
    """Return the number of different tokens."""
    return int(inputs[0].high or 0) + 1


def build(model: Lstm, inputs: Sequence[InputSpec], classes: int) -> LSTM:
    """Build the network for tokens or for sequences of features."""
    tokens = inputs[0].dtype == "int64"
    each = model.predicts is Predicts.token
    network = TokenLSTM if tokens else SequenceLSTM
    outputs = tokens_of(inputs) if each and tokens else classes
    sizes = {"embedding": model.embedding, "hidden": model.hidden, "layers": model.layers}
    return network(inputs, outputs, each=each, **sizes)
