"""A task of the user's own: found by its name, its splits taken as they come, faults in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from quantexp import tasks
from quantexp.config import CustomTask, DataRequest, DataSource, Experiment, Kind, Mlp, NoQuant, Paired, Static, Train
from quantexp.mission import input_kind, load, run
from quantexp.results import InputSpec
from quantexp.runner.checks import check_inputs
from quantexp.storage.recipe import Recipe
from quantexp.storage.stored import load as load_stored
from quantexp.storage.stored import save
from quantexp.system import own_code
from quantexp.system.errors import ConfigError, ModelError
from quantexp.tasks.data import TaskData
from quantexp.tasks.preparation import Preparation
from quantexp.training.baseline import trained

TASKS = '''
import torch
from quantexp import InputSpec
from quantexp.tasks.data import Split

class Points:
    """Two classes of points, told apart by the sign of their first value."""

    gives = "features"

    def __init__(self, examples=40, data_dir=None):
        self.examples = examples
        self.data_dir = data_dir

    def _drawn(self, seed):
        values = torch.randn(self.examples, 4, generator=torch.Generator().manual_seed(seed))
        return values, (values[:, 0] > 0).long()

    def train(self):
        return self._drawn(1)

    def test(self):
        return self._drawn(2)

    def encode(self, raw):
        return torch.tensor(raw, dtype=torch.float32).view(-1, 4)

class Sentences:
    """Token ids and a mask."""

    gives = "tokens"
    class_names = ("bad", "good", "fair")

    def train(self):
        ids = torch.arange(60).view(10, 6) % 20
        mask = (torch.arange(6) < 4).long().expand(10, 6)
        return (ids, mask), torch.arange(10) % 3

    def test(self):
        (ids, mask), labels = self.train()
        return (ids + 3, mask), labels

class Described(Sentences):
    inputs = (InputSpec("ids", (None,), "int64", 0, 99, length=6), InputSpec("mask", (None,), "int64", 0, 1, length=6))

class Squares(Split):
    """Numbers, kept as they are; a batch holds their squares too."""

    def __init__(self, numbers, labels):
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "numbers", numbers)

    def __len__(self):
        return len(self.numbers)

    def inputs(self, rows):
        numbers = self.numbers[rows]
        return (torch.stack([numbers, numbers**2], 1).float(), numbers[:, None])

    def take(self, rows):
        return Squares(self.numbers[rows], self.labels[rows])

class Lazy:
    gives = "tokens"
    fingerprint = "version 1"

    def train(self):
        numbers = torch.arange(600)
        return Squares(numbers, numbers % 2)

    def test(self):
        numbers = torch.arange(600, 650)
        return Squares(numbers, numbers % 2)

def function(examples=30):
    return Points(examples)

function.gives = ("features", "image")
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module `own_tasks` in it."""
    (tmp_path / "own_tasks.py").write_text(TASKS, encoding="utf-8")
    (tmp_path / "own_broken.py").write_text("import a_module_that_nobody_has\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in ("own_tasks", "own_broken", "own_faulty"):
        sys.modules.pop(name, None)


def own(name: str, **arguments: Any) -> CustomTask:
    return CustomTask(target=f"own_tasks.{name}", arguments=arguments)


def written(name: str) -> Any:
    """Return a class of the module."""
    return own_code.find("task.target", f"own_tasks.{name}")


def loaded(task: CustomTask, kind: Kind = Kind.features, **request: Any) -> TaskData:
    return tasks.load(task, kind, DataRequest(**{"calibration_examples": 5, **request}))


def rows(data: TaskData, split: str, at: int) -> list[list[float]]:
    return [tensor[at].tolist() for tensor in getattr(data, split).inputs(torch.arange(len(getattr(data, split))))]


# What it is taken for


def test_one_tensor_of_inputs_is_a_batch_of_one_tensor(folder: Path) -> None:
    data = loaded(own("Points"))
    assert (len(data.train), len(data.test), len(data.calibration)) == (40, 40, 5)
    assert data.inputs == (InputSpec("input0", (4,)),)
    assert (data.classes, data.origin, data.vocabulary) == (2, "own_tasks.Points", ())
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [int(value > 0) for value in data.train.first(40)[0][:, 0].tolist()]
    assert data.objective.name == "classification"


def test_a_tuple_of_tensors_is_a_batch_of_as_many_with_the_range_of_all_integers(folder: Path) -> None:
    data = loaded(own("Sentences"), Kind.tokens)
    assert data.inputs == (InputSpec("input0", (6,), "int64", 0, 22), InputSpec("input1", (6,), "int64", 0, 1))
    assert data.classes == 3
    assert rows(data, "test", 1) == [[9, 10, 11, 12, 13, 14], [1, 1, 1, 1, 0, 0]]


def test_what_it_says_of_its_inputs_stands_for_what_they_hold(folder: Path) -> None:
    ids, mask = loaded(own("Described"), Kind.tokens).inputs
    assert (ids.name, ids.shape, ids.low, ids.high, ids.length) == ("ids", (None,), 0, 99, 6)
    assert mask.name == "mask"


def test_a_split_of_ones_own_makes_its_batches_itself(folder: Path) -> None:
    data = loaded(own("Lazy"), Kind.tokens, validation=0.25)
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (450, 150, 50)
    assert rows(data, "test", 3) == [[603, 603**2], [603]]
    assert data.inputs == (InputSpec("input0", (2,)), InputSpec("input1", (1,), "int64", 0, 649)), "of all examples"
    assert type(data.calibration).__name__ == "Squares"


def test_a_function_that_returns_the_object_does_as_well(folder: Path) -> None:
    assert len(loaded(own("function")).train) == 30
    assert len(loaded(own("function", examples=20)).train) == 20
    assert tasks.gives(own("function")) == (Kind.features, Kind.image)


@pytest.mark.parametrize(("name", "kinds"), [("Points", (Kind.features,)), ("Sentences", (Kind.tokens,))])
def test_the_kind_of_input_is_read_without_building_it(folder: Path, name: str, kinds: tuple[Kind, ...]) -> None:
    assert tasks.gives(own(name, no_such_argument=1)) == kinds


def test_without_a_kind_it_gives_flat_features(folder: Path) -> None:
    (folder / "own_faulty.py").write_text("class Plain:\n    pass\n")
    assert tasks.gives(CustomTask(target="own_faulty.Plain")) == (Kind.features,)


def test_the_folder_of_the_data_is_handed_on_where_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = written("Points").__init__

    def watching(self: object, examples: int = 40, data_dir: str | None = None) -> None:
        seen.append(data_dir)
        real(self, examples, data_dir)

    monkeypatch.setattr(written("Points"), "__init__", watching)
    loaded(own("Points"), data_dir="/here")
    loaded(own("Points"))
    loaded(own("Sentences"), Kind.tokens, data_dir="/here")
    assert seen == ["/here", None]


def test_the_data_decide_the_fingerprint_and_so_does_what_it_says_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded(own("Points")).fingerprint
    assert loaded(own("Points")).fingerprint == first
    assert loaded(own("Points", examples=39)).fingerprint != first
    lazy = loaded(own("Lazy"), Kind.tokens).fingerprint
    assert loaded(own("Lazy"), Kind.tokens).fingerprint == lazy
    monkeypatch.setattr(written("Lazy"), "fingerprint", "version 2")
    assert loaded(own("Lazy"), Kind.tokens).fingerprint != lazy


def test_held_out_examples_are_neither_trained_nor_calibrated_on(folder: Path) -> None:
    data = loaded(own("Points"), validation=0.25)
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (30, 10)
    held = {tuple(row) for row in data.validation.first(10)[0].tolist()}
    assert not held & {tuple(row) for row in data.train.first(30)[0].tolist()}
    assert not held & {tuple(row) for row in data.calibration.first(5)[0].tolist()}


def test_a_method_that_does_not_calibrate_is_content_with_few_examples(folder: Path, tmp_path: Path) -> None:
    parts = {"task": own("Points"), "cache_dir": str(tmp_path)}
    assert len(load(Experiment(**parts, quant=NoQuant())).calibration) == 40
    with pytest.raises(ConfigError, match=r"quant\.calibration_examples must be at most 40, .* got 512"):
        load(Experiment(**parts, quant=Static()))


def test_what_it_reads_is_read_anew_for_each_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = loaded(own("Points"))
    drawn = torch.ones(7, 4), torch.arange(7) % 2
    monkeypatch.setattr(written("Points"), "train", lambda self: drawn)
    assert (len(first.train), len(loaded(own("Points")).train)) == (40, 7)


# Random inputs in place of its data


def test_random_inputs_are_drawn_as_it_describes_them_without_its_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written("Described"), "train", None)
    data = loaded(own("Described"), Kind.tokens, source=DataSource.synthetic)
    ids, mask = data.test.first(1024)
    assert (ids.shape, ids.min(), ids.max()) == ((1024, 6), 0, 99)
    assert set(mask.flatten().tolist()) == {0, 1}
    assert (data.classes, data.train.labels, data.test.labels) == (3, None, None)


def test_random_inputs_that_it_does_not_describe_are_refused(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"the attribute `inputs` of task\.target=own_tasks\.Sentences, it has none; add"
    ):
        loaded(own("Sentences"), Kind.tokens, source=DataSource.synthetic)


def test_random_inputs_for_a_number_of_classes_that_it_does_not_tell_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written("Points"), "inputs", InputSpec("x", (4,)), raising=False)
    with pytest.raises(
        ConfigError, match=r"the attribute `classes` of task\.target=own_tasks\.Points, it has none; add it"
    ):
        loaded(own("Points"), source=DataSource.synthetic)


# Faults


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("own_tasks.Nothing", "there is no Nothing in own_tasks; it has Described, Lazy, Points, Sentences"),
        ("own_tasks.torch", "torch is neither; it has"),
        ("own_absent.Points", "importable, own_absent is not .* run quantexp in its folder"),
        ("own_broken.Points", r"own_broken is not \(ModuleNotFoundError: .*a_module_that_nobody_has"),
    ],
)
def test_a_target_that_is_not_there_is_an_error_that_says_what_is(folder: Path, target: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"task.target={target} must .*{told}"):
        loaded(CustomTask(target=target))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "task=custom needs a class or a function, got none; give task.target=package.module.Class"),
        ({"target": "Points"}, "task.target must be a class or a function, written package.module.Class, got 'Points'"),
        ({"target": "a.b", "arguments": {"data_dir": "x"}}, "task.arguments.data_dir is passed by quantexp, got 'x'"),
        ({"target": "a.b", "arguments": [1]}, "task.arguments must be names with values, such as .*, got \\[1\\]"),
        ({"target": "a.b", "arguments": {"a-b": 1}}, "task.arguments must have names as keys, got 'a-b'"),
        ({"target": "a.b", "arguments": {"a": {1, 2}}}, "task.arguments must be plain values, as they are stored"),
    ],
)
def test_a_setting_that_is_none_is_refused_before_anything_is_imported(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        CustomTask(**settings)


def test_the_sample_is_not_there_for_a_task_of_ones_own() -> None:
    with pytest.raises(ConfigError, match="data=sample is not supported by task=custom, which has full, synthetic"):
        Experiment(task=CustomTask(target="own_tasks.Points"), data=DataSource.sample)


def test_the_check_before_a_run_finds_its_module_and_does_not_run_it(folder: Path) -> None:
    check_inputs(Experiment(task=own("Points")))
    assert "own_tasks" not in sys.modules
    with pytest.raises(
        ConfigError, match=r"task\.target=own_absent\.Points must be importable, there is no module own_a"
    ):
        check_inputs(Experiment(task=CustomTask(target="own_absent.Points")))


VALUES, LABELS = "torch.zeros(6, 4)", "torch.arange(6) % 2"
FAULTS: dict[str, tuple[str, str]] = {
    "a constructor that fails": (
        "def __init__(self):\n  raise ValueError('today')",
        "must build as Own\\(\\), .*today",
    ),
    "no train": ("train = None", "train\\(\\) of .* must return .* but it failed \\(TypeError: "),
    "a train that fails": ("def train(self):\n  raise OSError('no disk')", "train\\(\\) of .*OSError: no disk"),
    "inputs alone": (f"def train(self):\n  return {VALUES}", "train\\(\\) of .* must return .*, got a Tensor"),
    "three things": (f"def train(self):\n  return {VALUES}, {LABELS}, 1", "must return .*, got a tuple"),
    "labels as a list": (f"def train(self):\n  return {VALUES}, [0, 1]", "its labels must be a tensor, got a list"),
    "inputs as a list": (
        f"def train(self):\n  return [[1.0]], {LABELS}",
        "its inputs must be a tensor or .* got a list",
    ),
    "inputs that are a number": (f"def train(self):\n  return 3, {LABELS}", "its inputs must be .* got a int"),
    "no inputs": (f"def train(self):\n  return (), {LABELS}", "its inputs must be a tensor or a tuple of tensors"),
    "an array among inputs": (
        f"def train(self):\n  return (torch.zeros(6, 4).numpy(),), {LABELS}",
        "its inputs must be a tensor or a tuple of tensors",
    ),
    "fewer labels": (
        f"def train(self):\n  return {VALUES}, torch.arange(5)",
        "with the same number of examples, got \\[6\\] inputs and 5 labels",
    ),
    "inputs of unequal length": (
        f"def train(self):\n  return ({VALUES}, torch.zeros(5, 1)), {LABELS}",
        "with the same number of examples, got \\[6, 5\\] inputs and 6 labels",
    ),
    "a label alone": (f"def train(self):\n  return {VALUES}, torch.tensor(1)", "got \\[6\\] inputs and 0 labels"),
    "labels that are floats": (
        f"def train(self):\n  return {VALUES}, torch.zeros(6)",
        "labels of train\\(\\) .* must be int64, one for each example; got torch.float32 of shape \\(6,\\)",
    ),
    "labels in rows": (
        f"def train(self):\n  return {VALUES}, torch.zeros(6, 2, dtype=torch.int64)",
        "must be int64, one for each example; got torch.int64 of shape \\(6, 2\\)",
    ),
    "no examples": (
        "def train(self):\n  return torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)",
        "labels of train\\(\\) .* must be int64, one for each example; got torch.int64 of shape \\(0,\\)",
    ),
    "a label below zero": (
        f"def test(self):\n  return {VALUES}, torch.arange(6) - 1",
        "labels of test\\(\\) .* must be from 0 to 4, got -1 to 4",
    ),
    "a label beyond the classes": (
        f"classes = 2\n def train(self):\n  return {VALUES}, torch.arange(6) % 3",
        "labels of train\\(\\) .* must be from 0 to 1, got 0 to 2",
    ),
    "a label beyond the names": (
        f"class_names = ['a', 'b']\n def test(self):\n  return {VALUES}, torch.arange(6)",
        "labels of test\\(\\) .* must be from 0 to 1, got 0 to 5",
    ),
    "classes as text": ("classes = 'two'", "`classes` of .* must be a positive integer, got 'two'"),
    "no classes": ("classes = 0", "`classes` of .* must be a positive integer, got 0"),
    "doubles": (
        f"def train(self):\n  return {VALUES}.double(), {LABELS}",
        "inputs of .* cannot be used: the dtype of input input0 must be one of .*'float64'",
    ),
    "another test": (
        f"def test(self):\n  return torch.zeros(6, 5), {LABELS}",
        "inputs of test\\(\\) .* must be float32 of shape \\(4,\\) per example, got float32 of shape \\(5,\\)",
    ),
    "more inputs to test": (
        f"def test(self):\n  return ({VALUES}, {VALUES}), {LABELS}",
        "inputs of test\\(\\) .* must be float32 of shape \\(4,\\) per example, got float32 .* and float32",
    ),
    "inputs that are not as described": (
        "inputs = (InputSpec('x', (4,), 'int64', 0, 9),)",
        "inputs of train\\(\\) .* must be int64 of shape \\(4,\\) per example, got float32 .*its attribute `inputs`",
    ),
    "inputs that are no description": (
        "inputs = (4,)",
        "`inputs` of .* must be a tuple of quantexp.InputSpec, got \\(4",
    ),
    "a kind that is not known": (
        "gives = 'video'",
        "the attribute `gives` of .* must name kinds of input .*, got 'video'",
    ),
    "a kind that is a number": ("gives = 3", "the attribute `gives` of .* must name kinds of input .*, got 3"),
    "a split without a fingerprint": (
        f"def train(self):\n  return Own2({LABELS})\n test = train",
        "returns a Split, so it must have an attribute `fingerprint`",
    ),
}
FAULTY = f"""
import torch
from quantexp import InputSpec
from quantexp.tasks.data import Split

class Own2(Split):
 def __len__(self):
  return 6
 def inputs(self, rows):
  return (torch.zeros(len(rows), 4),)
 def take(self, rows):
  return self

class Whole:
 def train(self):
  return {VALUES}, {LABELS}
 test = train

class Own(Whole):
 FAULT
"""


@pytest.mark.parametrize(("fault", "told"), FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_task_is_refused_in_words(folder: Path, fault: str, told: str) -> None:
    (folder / "own_faulty.py").write_text(FAULTY.replace("FAULT", fault))
    experiment = Experiment(task=CustomTask(target="own_faulty.Own"), quant=NoQuant())
    with pytest.raises(ConfigError, match=told) as error:
        load(experiment)
    assert "own_faulty.Own" in str(error.value)


def test_held_out_labels_are_checked_as_well(folder: Path) -> None:
    """A label that is out of range is found whichever split its example goes to."""
    (folder / "own_faulty.py").write_text(
        FAULTY.replace("FAULT", f"classes = 2\n def train(self):\n  return {VALUES}, torch.tensor([0, 1, 0, 1, 0, 5])")
    )
    for seed in range(6):
        with pytest.raises(ConfigError, match="must be from 0 to 1, got 0 to 5"):
            load(Experiment(task=CustomTask(target="own_faulty.Own"), quant=NoQuant(), validation=0.2, seed=seed))


def test_a_network_that_takes_no_such_input_is_refused_with_the_pairs_that_fit(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"model=mlp takes features, task=custom gives tokens; task=custom goes with "
    ):
        load(Experiment(task=own("Sentences"), model=Mlp(hidden=[4])))


# The whole way


@pytest.fixture
def experiment(folder: Path) -> Callable[..., Experiment]:
    def build(**parts: Any) -> Experiment:
        settings = {
            "task": own("Points", examples=200),
            "model": Mlp(hidden=[8]),
            "train": Train(epochs=20, learning_rate=0.05, threads=1),
            "cache_dir": str(folder / "cache"),
            "benchmark": Paired(placements=2, seconds=0.02),
            "batch_size": [1],
        }
        return Experiment(**{**settings, **parts})

    return build


def test_it_is_learned_quantized_and_measured_like_any_other(experiment: Callable[..., Experiment]) -> None:
    report = run(experiment(quant=Static(calibration_examples=100))).report
    assert report.task == "custom"
    assert report.result.quality is not None
    assert report.result.quality.value > 0.9
    assert (report.data.train, report.data.calibration, report.data.test) == (200, 100, 200)


def test_other_code_of_a_task_trains_its_own_network(experiment: Callable[..., Experiment], folder: Path) -> None:
    first = trained(experiment(quant=NoQuant()), load(experiment(quant=NoQuant()))).key
    sys.modules.pop("own_tasks")
    (folder / "own_tasks.py").write_text(TASKS + "\nVERSION = 2\n")
    assert trained(experiment(quant=NoQuant()), load(experiment(quant=NoQuant()))).key != first


def test_a_stored_network_predicts_on_raw_inputs_where_its_task_is_trusted(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    parts = experiment(quant=NoQuant())
    data = load(parts)
    model = trained(parts, data).model
    save(tmp_path / "model", model, Recipe.of(parts, data, input_kind(parts)))
    raw = [[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]
    with torch.no_grad():
        expected = model(torch.tensor(raw)).argmax(1).tolist()
    found = load_stored(tmp_path / "model", trust=True).predict(raw)
    assert isinstance(found, list)
    assert [prediction.label for prediction in found] == expected

    sys.modules.pop("own_tasks")
    untrusted = load_stored(tmp_path / "model")
    with torch.no_grad():
        assert untrusted(torch.tensor(raw)).argmax(1).tolist() == expected
    with pytest.raises(
        ModelError, match="or was loaded without trust; call the model on tensors, or load it with trust=True"
    ):
        untrusted.predict(raw)
    assert "own_tasks" not in sys.modules, "without trust its code does not run"


@pytest.mark.parametrize("raw", ["a word", [[1.0, 2.0]], None])
def test_raw_inputs_that_its_encoding_refuses_are_an_error_in_words(folder: Path, raw: Any) -> None:
    with pytest.raises(ModelError, match=r"encode\(\) of task\.target=own_tasks\.Points must return .*but it failed"):
        tasks.encode(own("Points"), Kind.features, raw, Preparation())


def test_raw_inputs_of_a_task_that_encodes_none_are_an_error_in_words(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"task\.target=own_tasks\.Sentences has no method `encode`"):
        tasks.encode(own("Sentences"), Kind.tokens, "a word", Preparation())


def test_it_is_found_in_the_folder_where_python_starts(folder: Path) -> None:
    code = (
        "from quantexp.config import CustomTask, DataRequest, Kind\n"
        "from quantexp import tasks\n"
        "data = tasks.load(CustomTask(target='own_tasks.Points'), Kind.features, DataRequest(calibration_examples=5))\n"
        "print(len(data.train))"
    )
    script = folder / "elsewhere" / "script.py"  # whose own folder is the one that Python looks in
    script.parent.mkdir()
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "40\n"), done.stderr
