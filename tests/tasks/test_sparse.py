from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantexp.config import Device, Flow, Qat, Train
from quantexp.models.mlp import MLP
from quantexp.quant.flows import eager, fx
from quantexp.quant.flows.working import working
from quantexp.tasks.data import Tensors
from quantexp.tasks.objectives.classification import Classification
from quantexp.tasks.sparse import MOST, ByColumn, Sparse, columns_together, mostly_zero, sparse
from quantexp.tasks.words import BagOfWords
from quantexp.training.loop import fit

EXAMPLES, WORDS, CLASSES = 96, 300, 3
ORDER_OF_SUMS = 1e-5  # of values of about 1: another order of float32 sums


def counts(examples: int = EXAMPLES) -> Tensor:
    """Counts of four words an example, the first of them twice; example 0 has none."""
    drawn = torch.Generator().manual_seed(1)
    columns = torch.rand(examples, WORDS, generator=drawn).topk(4, dim=1).indices
    found = torch.zeros(examples, WORDS)
    found.scatter_(1, columns, torch.tensor([2.0, 1.0, 1.0, 1.0]).expand(examples, 4))
    found[0] = 0
    return found


def network() -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP(WORDS, [16, 8], CLASSES)


def gradients(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(batch).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=ORDER_OF_SUMS, atol=ORDER_OF_SUMS)


def test_a_sparse_matrix_has_the_values_of_the_dense_one() -> None:
    dense = counts()
    found = sparse(dense)
    assert (found.shape, len(found), found.dtype) == (dense.shape, EXAMPLES, torch.float32)
    assert len(found.entries) == 4 * (EXAMPLES - 1), "only those that are not zero are kept"
    assert found.dense is None
    assert torch.equal(found.to_dense(), dense)


@pytest.mark.parametrize(
    "build",
    [
        network,
        lambda: nn.Sequential(nn.Flatten(), network()),
        lambda: nn.Sequential(network().layers[0], nn.LayerNorm(16), nn.Linear(16, CLASSES)),
        lambda: nn.Sequential(nn.Linear(WORDS, CLASSES, bias=False)),
    ],
    ids=["mlp", "flatten", "norm", "no bias"],
)
def test_a_network_has_the_outputs_and_gradients_of_the_dense_product(build: Callable[[], nn.Module]) -> None:
    model, batch = build(), sparse(counts())
    with columns_together(model, (batch,)):
        found, output = gradients(model, batch), model(batch)
    assert batch.dense is None, "nothing has asked for the dense matrix"
    expected = gradients(model, counts())
    assert close(output, model(counts()))
    assert found.keys() == expected.keys()
    assert all(close(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("flow", "prepare_qat"), [(Flow.eager, eager.prepare_qat), (Flow.fx, fx.prepare_qat)], ids=["eager", "fx"]
)
def test_the_fake_quantization_of_qat_has_the_same_ranges_outputs_and_gradients(
    flow: Flow, prepare_qat: Callable[..., nn.Module]
) -> None:
    option = Qat(flow=flow)
    batch = sparse(counts())
    with working(option.engine):
        one, other = (prepare_qat(option, network(), (counts(2),), "").train() for _ in range(2))
        with columns_together(one, (batch,)):
            found = gradients(one, batch)
        expected = gradients(other, counts())
    assert batch.dense is None
    assert found.keys() == expected.keys()
    assert all(close(found[name], expected[name]) for name in expected)
    ranges = {name: value for name, value in other.state_dict().items() if name.endswith(("min_val", "max_val"))}
    assert len(ranges) == 2 * (4 + 3), "the input and the output of each layer, and the weights of each"
    assert all(close(one.state_dict()[name], value) for name, value in ranges.items())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2 + 1,
        lambda x: x.sum(1),
        lambda x: torch.cat([x, x]),
        lambda x: functional.normalize(x),
        lambda x: x[:, :5],
        lambda x: x.view(-1, 10),
        lambda x: torch.bmm(x[None], torch.ones(1, WORDS, 2)),
        lambda x: x.double(),
        lambda x: nn.Conv1d(1, 1, 1, bias=False).requires_grad_(False)(x[:, None]) * 0 + x[:, None],
    ],
)
def test_for_everything_else_it_is_the_dense_matrix(function: Callable[[Tensor], Tensor]) -> None:
    found = function(sparse(counts()))
    assert type(found) is Tensor
    assert torch.equal(found, function(counts()))


def test_a_change_in_place_is_seen_by_the_layers_after_it() -> None:
    model, batch = network(), sparse(counts())
    with columns_together(model, (batch,)):
        batch.mul_(3)
        output = model(batch)
    assert close(output, model(counts() * 3))
    assert not close(output, model(counts()))


def test_a_function_of_weights_is_computed_for_the_columns_of_the_product_only() -> None:
    weight = torch.randn(WORDS, 5, generator=torch.Generator().manual_seed(2)).t().requires_grad_()
    seen: list[int] = []

    def doubled(columns: Tensor) -> Tensor:
        seen.append(len(columns))
        return columns * 2

    batch = sparse(counts(3))
    output = functional.linear(batch, ByColumn(weight, doubled))
    assert seen == [int(counts(3).any(0).sum())]
    assert close(output, counts(3) @ (2 * weight.t()))
    output.sum().backward()
    assert weight.grad is not None
    assert close(weight.grad, 2 * counts(3).sum(0).expand(5, WORDS))
    assert close(functional.linear(counts(3), ByColumn(weight, doubled)), output)
    assert seen[-1] == WORDS, "a dense product takes all of them"


def test_autocast_computes_in_the_type_that_it_would() -> None:
    model, batch = network(), sparse(counts())
    with columns_together(model, (batch,)), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(batch), model(counts()))


@pytest.mark.parametrize("words", [[[0, 1, 1], [], [2]], [[3] * 5, [3], [0, 3]]])
def test_a_bag_of_words_gives_the_same_counts_for_training(words: list[list[int]]) -> None:
    starts = torch.tensor([0, *map(len, words)]).cumsum(0)
    numbers = torch.tensor([number for sentence in words for number in sentence], dtype=torch.int32)
    split = BagOfWords(torch.zeros(3, dtype=torch.int64), numbers, starts, WORDS)
    rows = torch.tensor([2, 0, 1, 2])
    (found,) = split.training_inputs(rows)
    assert isinstance(found, Sparse)
    assert torch.equal(found.to_dense(), split.inputs(rows)[0])


def test_only_examples_that_are_mostly_zero_are_made_sparse() -> None:
    dense = torch.zeros(20, 100)
    dense[:, : int(MOST * 100)] = 1
    assert mostly_zero(dense)
    dense[0, 50] = 1
    assert not mostly_zero(dense)
    assert not mostly_zero(torch.zeros(20, 1, 100))
    assert not mostly_zero(torch.zeros(20, 100, dtype=torch.int64))
    few = Tensors(torch.zeros(EXAMPLES), (counts(), torch.ones(EXAMPLES, 2)))
    first, second = few.training_inputs(torch.arange(4))
    assert (type(first), type(second)) == (Sparse, Tensor)


def test_training_gives_what_dense_batches_give_in_the_usual_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Tensors(torch.arange(EXAMPLES) % CLASSES, (counts(),))
    recipe = Train(epochs=3, batch_size=32, learning_rate=0.01, device=Device.cpu, threads=1)
    one, other = network(), network()
    made = fit(one, data, Classification(CLASSES), recipe, seed=0, label="test")
    monkeypatch.setattr(Tensors, "training_inputs", Tensors.inputs)
    expected = fit(other, data, Classification(CLASSES), recipe, seed=0, label="test")
    assert made.losses == pytest.approx(expected.losses, abs=1e-4)
    for (name, found), weight in zip(one.named_parameters(), other.parameters(), strict=True):
        assert found.is_contiguous(), name
        assert torch.allclose(found, weight, atol=1e-3), name
        assert not torch.equal(found, dict(network().named_parameters())[name]), "it was trained"
