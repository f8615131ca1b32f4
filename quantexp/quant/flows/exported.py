"""A prepared graph of PT2E as a network that can be trained, evaluated and converted.

torchao switches a graph between training and evaluation, and inserts and folds batch normalisation, by patterns with
torch's default numbers: a dropout of 0.2 becomes one of 0.5, an `eps` of 1e-3 one of 1e-5. Here the numbers of the
network stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from quantexp.quant.inspection.promise import Wrapper
from quantexp.tasks.inputs import Batch

aten = torch.ops.aten
ATTENTION, ATTENTION_DROPOUT = aten.scaled_dot_product_attention.default, 4  # the index of its argument dropout_p
NORM = aten.batch_norm.default
WEIGHT_TO_VAR, VAR, TRAINING, MOMENTUM, EPS = slice(1, 5), 4, 5, 6, 7  # the indices of its arguments
FOLDED_EPS = 1e-5  # that torchao folds batch normalisation with
MODES = {  # the index of the argument that says whether the operator trains
    NORM: TRAINING,
    aten.instance_norm.default: TRAINING,
    **dict.fromkeys((aten.dropout.default, aten.dropout_.default, aten.alpha_dropout.default), 2),
    **dict.fromkeys((aten.feature_dropout.default, aten.feature_alpha_dropout.default), 2),
    aten.rrelu.default: 3,
    **dict.fromkeys((aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input), 6),
}


class Exported(Wrapper):
    """A prepared graph that can be trained and evaluated like any network.

    Args:
        model: The prepared graph.
        example: A batch of inputs, with which it is exported again for lowering.
        training: Whether the network was exported for training.
    """

    def __init__(self, model: fx.GraphModule, example: Batch, training: bool = False) -> None:
        nn.Module.__init__(self)
        self.model = model
        self.example = example
        self.training = training

    def forward(self, *batch: Tensor) -> Tensor:
        logits: Tensor = self.model(*batch)
        return logits

    def train(self, mode: bool = True) -> Exported:
        """Switch dropout and batch normalisation, whose mode is an argument in the exported graph."""
        if mode is not self.training:
            _switch(self.model, mode)
            self.training = mode
        return self


def norm_numbers(graph: fx.GraphModule) -> dict[Any, tuple[float, float]]:
    """Return momentum and eps of the batch normalisations, by the name of their running variance."""
    return {node.args[VAR].target: (node.args[MOMENTUM], node.args[EPS]) for node in _running(graph)}


def restore_norm_numbers(graph: fx.GraphModule, numbers: dict[Any, tuple[float, float]]) -> None:
    """Give the batch normalisations momentum and eps again, after the patterns of torchao were inserted."""
    for node in _running(graph):
        momentum, eps = numbers[node.args[VAR].target]
        node.update_arg(MOMENTUM, momentum)
        _set_eps(node, eps)
    graph.recompile()


@torch.no_grad()
def shift_variances(graph: Any) -> None:
    """Move what `eps` differs from torchao's into the running variance, which divides by the same standard deviation.

    This is for conversion: during training it would drift.
    """
    for node in _running(graph):
        if node.args[EPS] != FOLDED_EPS:
            graph.get_buffer(node.args[VAR].target).add_(node.args[EPS] - FOLDED_EPS)
            _set_eps(node, FOLDED_EPS)
    graph.recompile()


def _running(graph: Any) -> Iterator[Any]:
    """Yield the batch normalisations with running statistics."""
    for node in graph.graph.nodes:
        if node.target is NORM and all(isinstance(argument, fx.Node) for argument in node.args[WEIGHT_TO_VAR]):
            yield node


def _set_eps(node: Any, eps: float) -> None:
    """Change eps here and where fused fake quant takes the standard deviation: sqrt(variance + eps)."""
    node.update_arg(EPS, eps)
    for user in list(node.args[VAR].users):
        if user.target is aten.add.Tensor and isinstance(user.args[1], float):
            user.update_arg(1, eps)


def _switch(graph: Any, training: bool) -> None:
    for node in graph.graph.nodes:
        if node.target is ATTENTION and len(node.args) > ATTENTION_DROPOUT:
            node.meta.setdefault("dropout", node.args[ATTENTION_DROPOUT])
            node.update_arg(ATTENTION_DROPOUT, node.meta["dropout"] if training else 0.0)
        elif (place := MODES.get(node.target)) and (place != TRAINING or node.args[VAR] is not None):
            node.update_arg(place, training)
    graph.recompile()
