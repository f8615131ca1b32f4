"""Networks that read the rows of an image one after another."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

WIDTH = 24


class Rows(nn.Module):
    """Classifies what `summary` makes of the rows, (batch, rows, columns)."""

    def __init__(self, inputs: int, classes: int, features: int = WIDTH) -> None:
        super().__init__()
        self.side = math.isqrt(inputs)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.summary(x.view(-1, self.side, self.side)))
        return logits

    def summary(self, rows: Tensor) -> Tensor:
        raise NotImplementedError


class Lstm(Rows):
    """An LSTM and a Linear head."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.lstm = nn.LSTM(self.side, WIDTH, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        return self.lstm(rows)[0][:, -1]


class LstmTwoLayers(Rows):
    """Two layers of LSTM with dropout between them; the last hidden state is classified."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.lstm = nn.LSTM(self.side, WIDTH, num_layers=2, dropout=0.1, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(rows)
        return hidden[-1]


class LstmBidirectional(Rows):
    """An LSTM in both directions."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, 2 * WIDTH)
        self.lstm = nn.LSTM(self.side, WIDTH, bidirectional=True, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        return self.lstm(rows)[0].mean(1)


class LstmGivenState(Rows):
    """An LSTM whose first state is made in forward, in float32."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.lstm = nn.LSTM(self.side, WIDTH, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        state = torch.zeros(1, rows.size(0), WIDTH), torch.zeros(1, rows.size(0), WIDTH)
        return self.lstm(rows, state)[0][:, -1]


class LstmLearnedState(Rows):
    """An LSTM whose first state is a pair of parameters."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.lstm = nn.LSTM(self.side, WIDTH, batch_first=True)
        self.hidden, self.cell = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.ones(1, 1, WIDTH))

    def summary(self, rows: Tensor) -> Tensor:
        count = rows.size(0)
        state = self.hidden.expand(-1, count, -1).contiguous(), self.cell.expand(-1, count, -1).contiguous()
        return self.lstm(rows, state)[0][:, -1]


class LstmTimeFirst(Rows):
    """An LSTM that takes the time as first dimension."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.lstm = nn.LSTM(self.side, WIDTH)

    def summary(self, rows: Tensor) -> Tensor:
        return self.lstm(rows.transpose(0, 1))[0][-1]


class LstmWithoutBias(Rows):
    """An LSTM without biases."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.lstm = nn.LSTM(self.side, WIDTH, bias=False, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        return self.lstm(rows)[0][:, -1]


class LstmProjected(Rows):
    """An LSTM that projects its hidden state."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, 8)
        self.lstm = nn.LSTM(self.side, WIDTH, proj_size=8, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        return self.lstm(rows)[0][:, -1]


class LstmPacked(Rows):
    """An LSTM on packed sequences of different lengths."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.lstm = nn.LSTM(self.side, WIDTH, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        lengths = self.side - torch.arange(rows.size(0)) % 3
        packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        return self.lstm(packed)[1][0][-1]


class LstmOnly(nn.Module):
    """An LSTM that gives the logits itself: no other layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.side = math.isqrt(inputs)
        self.lstm = nn.LSTM(self.side, classes, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.view(-1, self.side, self.side))[0][:, -1]


class LstmCell(Rows):
    """An LSTM cell in a loop of Python."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.cell = nn.LSTMCell(self.side, WIDTH)

    def summary(self, rows: Tensor) -> Tensor:
        hidden = cell = rows.new_zeros(rows.size(0), WIDTH)
        for step in range(self.side):
            hidden, cell = self.cell(rows[:, step], (hidden, cell))
        return hidden


class Gru(Rows):
    """A GRU and a Linear head."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.gru = nn.GRU(self.side, WIDTH, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        return self.gru(rows)[0][:, -1]


class GruBidirectional(Rows):
    """Two layers of GRU in both directions."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes, 2 * WIDTH)
        self.gru = nn.GRU(self.side, WIDTH, num_layers=2, bidirectional=True, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        return self.gru(rows)[0].amax(1)


class GruCell(Rows):
    """A GRU cell that starts without a state."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.cell = nn.GRUCell(self.side, WIDTH)

    def summary(self, rows: Tensor) -> Tensor:
        hidden = self.cell(rows[:, 0])
        for step in range(1, self.side):
            hidden = self.cell(rows[:, step], hidden)
        return hidden


class Rnn(Rows):
    """A plain recurrent layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.rnn = nn.RNN(self.side, WIDTH, nonlinearity="relu", batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        return self.rnn(rows)[0][:, -1]


class RnnCell(Rows):
    """A plain recurrent cell."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.cell = nn.RNNCell(self.side, WIDTH)

    def summary(self, rows: Tensor) -> Tensor:
        hidden = rows.new_zeros(rows.size(0), WIDTH)
        for step in range(self.side):
            hidden = self.cell(rows[:, step], hidden)
        return hidden


class ConvLstm(Rows):
    """Convolutions over time, then an LSTM, as in networks for speech."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.conv = nn.Conv1d(self.side, 16, 3, padding=1)
        self.lstm = nn.LSTM(16, WIDTH, batch_first=True)

    def summary(self, rows: Tensor) -> Tensor:
        features = torch.relu(self.conv(rows.transpose(1, 2)))
        return self.lstm(features.transpose(1, 2))[0][:, -1]
