from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from quantexp.config import Device, Optimizer, Train
from quantexp.models.mlp import MLP
from quantexp.results import Training
from quantexp.system.errors import TrainingError
from quantexp.tasks.data import Tensors
from quantexp.tasks.inputs import Batch
from quantexp.tasks.objectives.classification import Classification
from quantexp.tasks.objectives.unlabelled import Unlabelled
from quantexp.training.loop import batch_sizes, fit, outputs

EXAMPLES, FEATURES, CLASSES = 200, 6, 3
OBJECTIVE = Classification(CLASSES)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch compute with two threads, so that a training with one has something to put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def separable() -> Tensors:
    """Examples of three classes whose centres lie 3·√2 = 4.2 standard deviations apart."""
    drawn = torch.Generator().manual_seed(7)
    labels = torch.arange(EXAMPLES) % CLASSES
    values = torch.randn(EXAMPLES, FEATURES, generator=drawn)
    values[torch.arange(EXAMPLES), labels] += 3.0
    return Tensors(labels, (values,))


def network() -> MLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP(FEATURES, [16], CLASSES)


def recipe(**settings: object) -> Train:
    return Train(**{"epochs": 3, "batch_size": 16, "device": Device.cpu, "threads": 1, **settings})  # type: ignore[arg-type]


def trained(seed: int, train: Train | None = None) -> tuple[MLP, Training]:
    model = network()
    record = fit(model, separable(), OBJECTIVE, train or recipe(), seed=seed, label="test")
    return model, record


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_one_seed_gives_the_same_weights_bit_for_bit_and_another_seed_gives_others(optimizer: Optimizer) -> None:
    train = recipe(optimizer=optimizer)
    first, again, other = (trained(seed, train)[0].state_dict() for seed in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)


@pytest.mark.parametrize(("optimizer", "rate"), [(Optimizer.adam, 0.01), (Optimizer.sgd, 0.1)])
def test_the_loss_falls(optimizer: Optimizer, rate: float) -> None:
    _, record = trained(0, recipe(optimizer=optimizer, learning_rate=rate, epochs=10))
    assert record.losses[-1] < record.losses[0] / 2
    assert record.losses[-1] < math.log(CLASSES) / 2, "a network that guesses has a loss of log(classes)"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_loss_falls_under_autocast_too_and_the_weights_stay_float32(dtype: torch.dtype) -> None:
    model = network()
    record = fit(
        model, separable(), OBJECTIVE, recipe(learning_rate=0.01, epochs=5), seed=0, label="test", autocast=dtype
    )
    assert record.losses[-1] < record.losses[0] / 2
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_record_says_after_which_steps_each_loss_was_taken() -> None:
    _, record = trained(0, recipe(epochs=9))
    steps = 9 * math.ceil(EXAMPLES / 16)  # 117
    assert record.steps == (50, 100, steps)
    assert len(record.losses) == 3
    assert (record.epochs, record.device, record.threads) == (9, "cpu", 1)
    assert record.seconds > 0


def test_the_first_loss_is_that_of_the_untrained_network_on_the_whole_split() -> None:
    model, data = network(), separable()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(*data.values), data.labels)
    record = fit(model, data, OBJECTIVE, recipe(epochs=1, batch_size=EXAMPLES), seed=0, label="test")
    assert record.losses == pytest.approx((expected.item(),), rel=1e-5)


def test_training_leaves_the_model_in_evaluation_mode_on_the_cpu() -> None:
    model, _ = trained(0)
    assert not model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_the_random_state_of_torch_is_left_as_it_was() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    trained(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_random_state_of_torch_does_not_shape_the_weights() -> None:
    torch.manual_seed(1)
    first = trained(0)[0].state_dict()
    torch.manual_seed(2)
    assert equal(first, trained(0)[0].state_dict())


def test_what_a_network_draws_while_it_trains_is_fixed_by_the_seed() -> None:
    def dropped(state: int) -> dict[str, Tensor]:
        torch.manual_seed(state)
        model = nn.Sequential(nn.Dropout(0.5), network())
        fit(model, separable(), OBJECTIVE, recipe(), seed=0, label="test")
        return model.state_dict()

    assert equal(dropped(1), dropped(2))


def test_a_learning_rate_that_makes_the_loss_nan_is_an_error_that_names_step_and_rate() -> None:
    steps = 3 * math.ceil(EXAMPLES / 16)  # 39
    with pytest.raises(TrainingError, match=rf"it is (nan|inf) at step {steps} of {steps}.*\(now 1e\+30\)"):
        trained(0, recipe(learning_rate=1e30))


def test_inputs_that_are_not_finite_are_an_error_that_names_step_input_and_example() -> None:
    data = separable()
    data.values[0][17, 2] = math.inf
    with pytest.raises(
        TrainingError, match=r"it is nan at step 13 of 13; input 0 of training example 17 is not finite; correct the"
    ):
        fit(network(), data, OBJECTIVE, recipe(epochs=1), seed=0, label="test")


def test_outputs_that_are_not_finite_before_the_first_update_are_not_blamed_on_the_learning_rate() -> None:
    class Masked(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.full((CLASSES,), -math.inf).softmax(0)

    with pytest.raises(TrainingError, match="not finite before the first update, and all inputs are finite") as failure:
        fit(Masked(FEATURES, [16], CLASSES), separable(), OBJECTIVE, recipe(epochs=1), seed=0, label="test")
    assert "learning_rate" not in str(failure.value)


def test_a_failed_training_puts_the_threads_and_the_random_state_back(two_threads: None) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(TrainingError):
        trained(0, recipe(learning_rate=1e30))
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_on_step_is_called_once_before_each_step_with_its_number() -> None:
    calls: list[tuple[int, int]] = []
    fit(
        network(),
        separable(),
        OBJECTIVE,
        recipe(epochs=2),
        seed=0,
        label="test",
        on_step=lambda step, steps: calls.append((step, steps)),
    )
    steps = 2 * math.ceil(EXAMPLES / 16)  # 26
    assert calls == [(step, steps) for step in range(steps)]


def test_the_first_on_step_sees_the_untrained_weights() -> None:
    model, seen = network(), []
    untrained = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def look(step: int, steps: int) -> None:
        seen.append(equal(model.state_dict(), untrained))

    fit(model, separable(), OBJECTIVE, recipe(epochs=1), seed=0, label="test", on_step=look)
    assert seen == [True, *[False] * 12]


def test_each_epoch_sees_every_example_once_in_an_order_of_its_own() -> None:
    orders: list[list[int]] = []

    class Watched(Tensors):
        def inputs(self, rows: Tensor) -> Batch:
            orders.append(rows.tolist())
            return super().inputs(rows)

    data = separable()
    fit(network(), Watched(data.labels, data.values), OBJECTIVE, recipe(epochs=2), seed=0, label="test")
    kind, *orders = orders
    assert kind == [0], "one example is looked at before, for what its inputs are"
    first = [row for rows in orders[:13] for row in rows]
    second = [row for rows in orders[13:] for row in rows]
    assert sorted(first) == sorted(second) == list(range(EXAMPLES))
    assert first != second


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so asking for it is no error")
def test_asking_for_a_gpu_where_there_is_none_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(TrainingError, match=r"train\.device=cuda needs a GPU .* use train\.device=auto"):
        trained(0, recipe(device=Device.cuda))


def test_training_computes_with_the_threads_it_was_told_and_puts_the_former_number_back(two_threads: None) -> None:
    counts: set[int] = set()
    record = fit(
        network(),
        separable(),
        OBJECTIVE,
        recipe(),
        seed=0,
        label="test",
        on_step=lambda step, steps: counts.add(torch.get_num_threads()),
    )
    assert counts == {1}
    assert record.threads == 1
    assert torch.get_num_threads() == 2


def test_predicting_in_batches_equals_one_forward_pass_over_all_examples() -> None:
    model, _ = trained(0, recipe(learning_rate=0.01, epochs=10))
    data = separable()
    with torch.no_grad():
        together = model(*data.values).argmax(1)
    given = outputs(model, data)
    assert given.shape == (EXAMPLES, CLASSES)
    assert not given.requires_grad
    predicted = OBJECTIVE.predictions(given)
    assert torch.equal(predicted, together)
    assert predicted.shape == (EXAMPLES,)
    assert (predicted == data.labels).float().mean() > 0.9, "the classes are far apart"


class Summing(nn.Module):
    """A network of two inputs: token ids that are embedded, and a mask of those that count."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.last((self.embedding(ids) * mask[..., None]).sum(1))
        return logits


def test_a_network_of_several_inputs_is_trained_and_predicts_like_any_other() -> None:
    drawn = torch.Generator().manual_seed(3)
    labels = torch.arange(EXAMPLES) % CLASSES
    ids = torch.randint(CLASSES, 10, (EXAMPLES, 5), generator=drawn)
    ids[:, 0] = labels  # the first token tells the class, the last two are padding
    mask = torch.tensor([1, 1, 1, 0, 0]).expand(EXAMPLES, 5).contiguous()
    data, model = Tensors(labels, (ids, mask)), Summing()
    record = fit(model, data, OBJECTIVE, recipe(learning_rate=0.05, epochs=10), seed=0, label="test")
    assert record.losses[-1] < record.losses[0] / 2
    predicted = OBJECTIVE.predictions(outputs(model, data))
    assert (predicted == labels).float().mean() > 0.9
    other = Tensors(labels, (torch.where(mask == 1, ids, 9), mask))
    assert torch.equal(OBJECTIVE.predictions(outputs(model, other)), predicted), "what is masked does not count"


def test_training_without_labels_is_refused_in_words() -> None:
    data = Tensors(None, separable().values)
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TrainingError, match="training needs labels, these examples have none; use data=full or"):
        fit(model, data, OBJECTIVE, recipe(), seed=0, label="test")
    with pytest.raises(TrainingError, match="training needs labels, data=synthetic has none"):
        fit(model, separable(), Unlabelled(), recipe(), seed=0, label="test")
    assert equal(model.state_dict(), before)


def test_the_objective_says_what_is_made_small() -> None:
    class Backwards(Classification):
        def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
            return super().loss(outputs, CLASSES - 1 - labels)

    model, data = network(), separable()
    fit(model, data, Backwards(CLASSES), recipe(learning_rate=0.01, epochs=10), seed=0, label="test")
    predicted = OBJECTIVE.predictions(outputs(model, data))
    assert (predicted == CLASSES - 1 - data.labels).float().mean() > 0.9


# Batches of one


def test_a_rest_of_one_example_joins_the_batch_before_it() -> None:
    assert batch_sizes(65, 16) == [16, 16, 16, 17]
    assert batch_sizes(64, 16) == [16, 16, 16, 16]
    assert batch_sizes(66, 16) == [16, 16, 16, 16, 2]
    assert batch_sizes(1, 16) == [1], "there is no batch before it"
    assert batch_sizes(3, 1) == [1, 1, 1]
    assert batch_sizes(17, 16) == [17]


@pytest.mark.parametrize("epochs", [1, 2])
def test_batch_normalisation_trains_where_one_example_would_remain(epochs: int) -> None:
    data = separable().take(torch.arange(193))  # 12 batches of 16, and 1
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    record = fit(model, data, OBJECTIVE, recipe(epochs=epochs), seed=0, label="test")
    assert record.steps == (12 * epochs,)
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert int(norm.num_batches_tracked or 0) == 12 * epochs
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


def test_batch_normalisation_with_batches_of_one_is_an_error_that_names_the_setting() -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    with pytest.raises(TrainingError, match=r"at least two examples: set train\.batch_size=2 or more"):
        fit(model, separable(), OBJECTIVE, recipe(batch_size=1), seed=0, label="test")


# Parameters and gradients of all kinds


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_sparse_gradients_train_like_dense_ones(optimizer: Optimizer) -> None:
    labels = torch.arange(EXAMPLES) % CLASSES
    ids = torch.stack([labels, torch.arange(EXAMPLES) % 10], 1)
    data = Tensors(labels, (ids, torch.ones_like(ids)))
    states = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = Summing()
        model.embedding.sparse = sparse
        record = fit(model, data, OBJECTIVE, recipe(optimizer=optimizer, learning_rate=0.05), seed=0, label="test")
        assert record.losses[-1] < math.log(CLASSES)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=1e-6), name


@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_frozen_parameters_stay_as_they_are(optimizer: Optimizer) -> None:
    model = network()
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(model, separable(), OBJECTIVE, recipe(optimizer=optimizer), seed=0, label="test")
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == before.keys() - {"layers.0.weight"}


def test_a_network_without_parameters_to_train_is_an_error_that_says_so() -> None:
    with pytest.raises(TrainingError, match=r"all of this network are frozen \(requires_grad=False\)"):
        fit(network().requires_grad_(False), separable(), OBJECTIVE, recipe(), seed=0, label="test")


def test_a_loss_that_no_trained_parameter_shapes_is_an_error_that_names_the_causes() -> None:
    class Detached(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(TrainingError, match=r"its gradient is cut off; leave torch\.no_grad\(\), detach\(\)"):
        fit(Detached(FEATURES, [16], CLASSES), separable(), OBJECTIVE, recipe(), seed=0, label="test")


def test_a_network_that_fails_in_training_mode_is_an_error_with_its_reason() -> None:
    class Evaluating(MLP):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise KeyError("only for evaluation")
            return super().forward(x)

    with pytest.raises(TrainingError, match=r"must run in training mode.*KeyError: 'only for evaluation'"):
        fit(Evaluating(FEATURES, [16], CLASSES), separable(), OBJECTIVE, recipe(), seed=0, label="test")


def test_a_lack_of_memory_stays_one() -> None:
    class Huge(MLP):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        fit(Huge(FEATURES, [16], CLASSES), separable(), OBJECTIVE, recipe(), seed=0, label="test")
