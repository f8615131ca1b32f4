from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quantexp.config import (
    METHODS,
    Dynamic,
    Engine,
    Experiment,
    Granularity,
    Mlp,
    NoQuant,
    Qat,
    Quant,
    Sst2,
    Static,
    Train,
)
from quantexp.mission import input_kind
from quantexp.mission import load as load_data
from quantexp.quant.engine import supported_engines
from quantexp.results import InputSpec
from quantexp.state.checkpoint import float_weights
from quantexp.storage.recipe import FILES, Recipe, read
from quantexp.storage.stored import load, save
from quantexp.system.errors import ModelError
from quantexp.tasks.inputs import Batch
from tests.runs import quantized

Sample = Callable[..., Experiment]

PAIRS = [
    (method, precision) for method in METHODS for precision in method.precisions if precision != "int4"
]  # int4 wants wider layers: tests/quant/test_weight_only.py
ENGINES = [Engine(name) for name in supported_engines()]


def of_pair(value: object) -> str:
    return value.name if isinstance(value, type) and issubclass(value, Quant) else str(value)


@pytest.fixture
def saved(sample: Sample, tmp_path: Path) -> Callable[..., tuple[Path, nn.Module, Batch]]:
    """Quantize a small network and save it; the folder, the network, and a batch of test inputs."""

    def build(quant: Quant, precision: str | None = None, **parts: object) -> tuple[Path, nn.Module, Batch]:
        small = {"model": Mlp(hidden=[16]), "train": Train(epochs=1, threads=1), **parts}
        experiment = sample(quant=quant, precision=precision, **small)
        data = load_data(experiment)
        model = quantized(experiment, data).model
        folder = tmp_path / "model"
        save(folder, model, Recipe.of(experiment, data, input_kind(experiment)))
        return folder, model, data.test.first(64)

    return build


@pytest.fixture
def stored(saved: Callable[..., tuple[Path, nn.Module, Batch]]) -> Path:
    """A stored int8 model."""
    return saved(Static())[0]


@pytest.fixture
def worded(saved: Callable[..., tuple[Path, nn.Module, Batch]]) -> Path:
    """A stored model of sentences."""
    return saved(NoQuant(), task=Sst2(vocabulary=50))[0]


def predicted(model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(*batch)


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "recipe.json").read_text(encoding="utf-8"))


def rewrite(folder: Path, **changes: Any) -> None:
    """Put these values into the recipe: options among its options, others at its top."""
    recipe = described(folder)
    for name, value in changes.items():
        (recipe["options"] if name in recipe["options"] else recipe)[name] = value
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")


def sign(folder: Path) -> None:
    """Let the recipe name the files that lie beside it now, as if they had been stored so."""
    files = described(folder)["files"]
    for file in files.values():
        if (folder / file["name"]).is_file():
            file["sha256"] = hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest()
    rewrite(folder, files=files)


# Saved, and loaded again


@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_a_model_that_is_saved_and_loaded_predicts_the_same_bit_for_bit(
    saved: Callable[..., tuple[Path, nn.Module, Batch]], method: type[Quant], precision: str
) -> None:
    folder, model, inputs = saved(method(), precision)
    again = load(folder)
    assert torch.equal(predicted(again, inputs), predicted(model, inputs))
    assert not again.training


@pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores reduce_range:UserWarning")  # once a process
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", [Dynamic, Static, Qat], ids=of_pair)
def test_a_model_of_any_engine_predicts_the_same_bit_for_bit(
    saved: Callable[..., tuple[Path, nn.Module, Batch]], method: type[Dynamic | Static | Qat], engine: Engine
) -> None:
    folder, model, inputs = saved(method(engine=engine))
    before = torch.backends.quantized.engine
    assert torch.equal(predicted(load(folder), inputs), predicted(model, inputs))
    assert torch.backends.quantized.engine == before


@pytest.mark.parametrize("method", [Static, Qat], ids=of_pair)
def test_a_model_with_one_scale_a_layer_predicts_the_same_bit_for_bit(
    saved: Callable[..., tuple[Path, nn.Module, Batch]], method: type[Static | Qat]
) -> None:
    folder, model, inputs = saved(method(weights=Granularity.per_tensor))
    assert torch.equal(predicted(load(folder), inputs), predicted(model, inputs))


@pytest.mark.parametrize(
    ("quant", "name"), [(NoQuant(), "state.safetensors"), (Dynamic(), "state.pt")], ids=["none", "dynamic"]
)
def test_plain_weights_are_safetensors_and_packed_ones_a_state_dict_of_torch(
    saved: Callable[..., tuple[Path, nn.Module, Batch]], quant: Quant, name: str
) -> None:
    folder, _, _ = saved(quant)
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.json", name]


def test_loading_leaves_the_random_state_of_torch_as_it_was(stored: Path) -> None:
    before = torch.get_rng_state()
    load(stored)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_recipe_says_what_the_model_is(stored: Path) -> None:
    recipe = described(stored)
    assert list(recipe) == [
        "format",
        "options",
        "inputs",
        "output",
        "preprocessing",
        "runtime",
        "attributes",
        "versions",
        "files",
    ]
    assert recipe["format"] == 4
    options = recipe["options"]
    assert options["task"] == {"name": "mnist", "hidden": [1024, 1024], "crop": 20, "channels": 1}
    assert options["model"] == {"name": "mlp", "hidden": [16]}
    assert options["quant"]["name"] == "static"
    assert options["precision"] == "int8"
    (spec,) = recipe["inputs"]
    assert (spec["name"], spec["shape"], spec["dtype"]) == ("pixels", [400], "float32")
    assert (recipe["output"], recipe["preprocessing"]) == ({"classes": 10, "names": []}, {"kind": "features"})
    assert recipe["runtime"] == {"name": "eager", "target": "kernels", "batch_sizes": []}
    assert recipe["versions"]["torch"] == torch.__version__


def test_the_recipe_names_each_file_by_its_role_with_the_digest_of_its_content(worded: Path) -> None:
    files = described(worded)["files"]
    assert {role: file["name"] for role, file in files.items()} == {
        "state": "state.safetensors",
        "vocabulary": "vocabulary.txt",
    }
    for file in files.values():
        assert file["sha256"] == hashlib.sha256((worded / file["name"]).read_bytes()).hexdigest()


def test_a_recipe_is_read_as_it_was_written(
    saved: Callable[..., tuple[Path, nn.Module, Batch]], tmp_path: Path
) -> None:
    folder, model, _ = saved(NoQuant(), task=Sst2(vocabulary=50))
    recipe = dataclasses.replace(read(folder), runtime="compiled", target="qdq", batch_sizes=(1, 64))
    save(tmp_path / "again", model, recipe)
    assert read(tmp_path / "again") == recipe
    assert recipe.inputs == (InputSpec("counts", (50,), "float32", 0.0, 1.0),)


def test_specs_of_several_inputs_and_of_a_length_that_varies_are_read_as_they_were_written(
    saved: Callable[..., tuple[Path, nn.Module, Batch]], tmp_path: Path
) -> None:
    folder, model, _ = saved(NoQuant())
    ids, mask = (
        InputSpec("ids", (None,), "int64", 0, 99, length=32),
        InputSpec("mask", (None,), "int64", 0, 1, length=32),
    )
    save(tmp_path / "again", model, dataclasses.replace(read(folder), inputs=(ids, mask), kind="tokens"))
    again = read(tmp_path / "again")
    assert (again.inputs, again.kind) == ((ids, mask), "tokens")


# Files that are not those that were stored


def test_a_file_that_was_changed_is_refused_by_its_name(worded: Path) -> None:
    for name in ("state.safetensors", "vocabulary.txt"):
        content = (worded / name).read_bytes()
        (worded / name).write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
        with pytest.raises(ModelError, match=rf"is damaged .*{name} is not the file that was stored"):
            load(worded)
        (worded / name).write_bytes(content)
    assert len(load(worded).preparation.vocabulary) == 50


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("state", "weights.bin"),
        ("state", "../model/state.pt"),
        ("state", "recipe.json"),
        ("state", "vocabulary.txt"),
        ("vocabulary", "state.pt"),
        ("vocabulary", "/etc/passwd"),
        ("tokenizer", "vocabulary.txt"),
        ("merges", "tokenizer.json"),
        ("code", "state.pt"),
    ],
)
def test_a_file_that_is_none_of_a_stored_network_is_refused(stored: Path, role: str, name: str) -> None:
    files = described(stored)["files"]
    (stored / "tokenizer.json").write_text("{}")
    rewrite(stored, files={**files, role: {"name": name, "sha256": "0" * 64}})
    with pytest.raises(ModelError, match=rf"the files of a stored network must be .*; got {role}: '{name}"):
        load(stored)


def test_only_the_file_that_the_recipe_names_is_read(stored: Path) -> None:
    expected = predicted(load(stored), (torch.ones(2, 400),))
    (stored / "state.safetensors").write_bytes(b"not of this network")
    assert torch.equal(predicted(load(stored), (torch.ones(2, 400),)), expected)


def test_a_recipe_that_names_no_state_is_damaged_whatever_lies_beside_it(stored: Path) -> None:
    rewrite(stored, files={})
    with pytest.raises(ModelError, match=r"is damaged .*'state'"):
        load(stored)


def test_weights_to_start_from_that_were_changed_are_refused(
    saved: Callable[..., tuple[Path, nn.Module, Batch]],
) -> None:
    folder, _, _ = saved(NoQuant())
    content = (folder / "state.safetensors").read_bytes()
    (folder / "state.safetensors").write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"is damaged .*state\.safetensors is not the file that was stored"):
        float_weights(folder)


# What is not a stored model


def test_a_folder_without_a_recipe_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a stored model is a folder that contains recipe\.json, .* does not"):
        load(tmp_path)


def test_a_path_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"that contains recipe\.json, .*absent does not"):
        load(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"{ cut", b"\xff", b"[]", b"{}", b"3", b'"text"'])
def test_a_recipe_that_is_damaged_is_an_error_that_names_the_folder(stored: Path, content: bytes) -> None:
    (stored / "recipe.json").write_bytes(content)
    with pytest.raises(ModelError, match="model is damaged"):
        load(stored)


def test_a_method_that_is_not_known_is_an_error_that_lists_those_that_are(stored: Path) -> None:
    rewrite(stored, quant={"name": "ternary"})
    with pytest.raises(
        ModelError, match="must use one of none, dynamic, weight_only, static, qat, amp, fake_quant; got 'ternary'"
    ):
        load(stored)


def test_a_network_that_is_not_known_is_an_error_that_lists_those_that_are(stored: Path) -> None:
    rewrite(stored, model={"name": "os.system"})
    with pytest.raises(ModelError, match=r"must use one of mlp, lenet5, .*, custom; got 'os\.system'"):
        load(stored)


def test_a_task_that_is_not_known_is_an_error_that_lists_those_that_are(stored: Path) -> None:
    rewrite(stored, task={"name": "imagenet"})
    with pytest.raises(
        ModelError, match=r"must use one of mnist, sst2, images, text, audio, arrays, custom; got 'imagenet'"
    ):
        load(stored)


@pytest.mark.parametrize("other", [2, 5, None, "3", "4"])
def test_a_model_of_another_format_is_an_error_that_names_both_and_the_way_out(stored: Path, other: object) -> None:
    rewrite(stored, format=other, whatever="a format from the future holds")
    with pytest.raises(ModelError, match=rf"has format {other!r}, this version of quantexp reads 3 and 4; re-run the"):
        load(stored)


def spec(values: int) -> dict[str, Any]:
    return {"name": "pixels", "shape": [values], "dtype": "float32", "low": None, "high": None, "length": None}


DAMAGED: dict[str, dict[str, Any]] = {
    "no method": {"quant": None},
    "a setting that is not known": {"quant": {"name": "static", "bits": 4}},
    "an engine that is not known": {"quant": {"name": "static", "engine": "cuda"}},
    "a setting out of bounds": {"quant": {"name": "qat", "freeze_after": 7}},
    "a precision that is not known": {"quant": {"name": "none"}, "precision": "int2"},
    "widths below one": {"model": {"name": "mlp", "hidden": [-3]}},
    "widths that are text": {"model": {"name": "mlp", "hidden": "wide"}},
    "a network of images for inputs that are none": {"model": {"name": "lenet5"}},
    "inputs that are text": {"inputs": "many"},
    "no inputs": {"inputs": []},
    "inputs of another width": {"inputs": [spec(399)]},
    "one input more": {"inputs": [spec(400), spec(400)]},
    "inputs below zero": {"inputs": [spec(-1)]},
    "more inputs than there is memory": {"inputs": [spec(10**15)]},
    "inputs of a dtype that is not known": {"inputs": [spec(400) | {"dtype": "object"}]},
    "inputs with a field that is not known": {"inputs": [spec(400) | {"unit": "mm"}]},
    "a kind of input that is not known": {"preprocessing": {"kind": "video"}},
    "a kind of input that is not the network's": {"preprocessing": {"kind": "image"}},
    "classes below zero": {"output": {"classes": -1}},
    "no output": {"output": {}},
    "a runtime without batch sizes": {"runtime": {"name": "eager", "target": "kernels"}},
    "another method than the state's": {"quant": {"name": "none"}, "precision": "fp32"},
    "a field that is not known": {"owner": "me"},
    "a vocabulary of its own": {"vocabulary": ["a"]},
    "a crop that is not the network's": {"task": {"name": "mnist", "hidden": [], "crop": 21}},
    "a task that counts words": {"task": {"name": "sst2", "hidden": [], "vocabulary": 400}},
}


@pytest.mark.parametrize("changes", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_recipe_with_wrong_values_is_an_error(stored: Path, changes: dict[str, Any]) -> None:
    rewrite(stored, **changes)
    with pytest.raises(ModelError):
        load(stored)


def test_a_network_wider_than_its_state_is_refused_before_memory_is_taken_for_it(stored: Path) -> None:
    rewrite(stored, model={"name": "mlp", "hidden": [10**6, 10**6]})  # 4 TB
    with pytest.raises(ModelError, match=r"describes 1,000,4\d\d,\d{3},\d{3} parameters, but its state has"):
        load(stored)


# The words that are counted


def test_the_words_lie_in_a_file_of_their_own_in_the_order_of_the_features(worded: Path, sample: Sample) -> None:
    words = (worded / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    assert tuple(words) == load_data(sample(task=Sst2(vocabulary=50))).vocabulary
    assert len(words) == 50
    assert words[0] not in (worded / "recipe.json").read_text(encoding="utf-8").split('"')
    assert {path.name for path in worded.iterdir()} <= FILES.keys()


def test_words_of_any_script_are_read_as_they_were_written(worded: Path) -> None:
    words = ["naïve", "映画", "🎬", "\ufeffbom", "it's", *(f"w{i}" for i in range(45))]
    (worded / "vocabulary.txt").write_bytes("\n".join(words).encode())
    sign(worded)
    assert load(worded).preparation.vocabulary == tuple(words)


VOCABULARIES: dict[str, tuple[bytes, str]] = {
    "one word less": (
        b"\n".join(b"w%d" % i for i in range(49)),
        "sst2 provides inputs of shape 49, the network takes 50",
    ),
    "one word more": (
        b"\n".join(b"w%d" % i for i in range(51)),
        "sst2 provides inputs of shape 51, the network takes 50",
    ),
    "a word twice": (b"\n".join([b"w", b"w", *(b"w%d" % i for i in range(48))]), "must have each word only once"),
    "a space in a word": (b"\n".join([b"a b", *(b"w%d" % i for i in range(49))]), "one word per line, it has 'a b'"),
    "an empty line": (b"\n".join([b"", *(b"w%d" % i for i in range(49))]), "one word per line, it has ''"),
    "nothing": (b"", "one word per line, it has ''"),
    "not UTF-8": (b"\xff", "UnicodeDecodeError"),
}


@pytest.mark.parametrize(("content", "told"), VOCABULARIES.values(), ids=VOCABULARIES.keys())
def test_words_that_are_not_those_of_the_model_are_an_error(worded: Path, content: bytes, told: str) -> None:
    (worded / "vocabulary.txt").write_bytes(content)
    sign(worded)
    with pytest.raises(ModelError, match=rf"is damaged .*{told}"):
        load(worded)


def test_a_model_of_more_classes_than_its_task_names_is_an_error(worded: Path) -> None:
    rewrite(worded, output={"classes": 3})
    with pytest.raises(ModelError, match="sst2 has 2 classes, the network has 3"):
        load(worded)


def test_a_model_of_sentences_without_its_words_is_an_error(worded: Path) -> None:
    (worded / "vocabulary.txt").unlink()
    with pytest.raises(ModelError, match=r"is damaged .*vocabulary\.txt"):
        load(worded)
    rewrite(worded, files={"state": described(worded)["files"]["state"]})
    with pytest.raises(ModelError, match=r"sizes of input counts must be at least 1, got \(0,\)"):
        load(worded)


# Weights to start from


@pytest.mark.parametrize(("method", "precision"), PAIRS, ids=of_pair)
def test_only_float32_weights_are_given_to_start_from(
    saved: Callable[..., tuple[Path, nn.Module, Batch]], method: type[Quant], precision: str
) -> None:
    folder, model, _ = saved(method(), precision)
    if method.name == "amp" or precision == "fp32":
        weights = float_weights(folder)
        assert list(weights) == ["layers.0.bias", "layers.0.weight", "layers.2.bias", "layers.2.weight"]
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        own = [value for name, value in model.state_dict().items() if name.endswith("layers.2.weight")]
        assert torch.equal(own[0], weights["layers.2.weight"])
    else:
        with pytest.raises(
            ModelError, match=rf"quant=amp, or with quant=none and precision=fp32; .* quant={method.name} and "
        ):
            float_weights(folder)


# Damaged states


def test_a_model_without_its_state_is_an_error_that_names_the_file(stored: Path) -> None:
    (stored / "state.pt").unlink()
    with pytest.raises(ModelError, match=r"state\.pt"):
        load(stored)


@pytest.mark.parametrize("length", [0, 4, 100, 1000])
@pytest.mark.parametrize("quant", [NoQuant(), Static()], ids=["safetensors", "pt"])
def test_a_state_that_is_cut_off_is_an_error_that_names_the_folder(
    saved: Callable[..., tuple[Path, nn.Module, Batch]], quant: Quant, length: int
) -> None:
    folder, _, _ = saved(quant)
    (state,) = folder.glob("state.*")
    state.write_bytes(state.read_bytes()[:length])
    with pytest.raises(ModelError, match=rf"model is damaged .*{state.name} is not the file that was stored"):
        load(folder)
    sign(folder)
    with pytest.raises(ModelError, match="model is damaged"):
        load(folder)


class Payload:
    """What code in a pickle does: unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def test_a_state_with_code_is_refused_and_the_code_does_not_run(stored: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"payload": Payload(marker)}, stored / "state.pt")
    sign(stored)
    with pytest.raises(ModelError, match=r"model is damaged \(UnpicklingError: Weights only load failed"):
        load(stored)
    assert not marker.exists()
    torch.load(stored / "state.pt", weights_only=False)
    assert marker.exists(), "the file was harmless after all, so the refusal proves nothing"


STATES: dict[str, object] = {
    "a list": [1.0],
    "nothing": {},
    "numbers as names": {1: torch.zeros(1)},
    "text as weights": {"layers.0.scale": "a"},
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_a_state_that_is_not_the_models_is_an_error(stored: Path, state: object) -> None:
    torch.save(state, stored / "state.pt")
    sign(stored)
    with pytest.raises(ModelError, match="model is damaged"):
        load(stored)


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02.", b"\x80\x02j\x01\x00\x00\x00.", b"\x80\x02r"],
    ids=["empty stack", "no such memo", "cut in an argument"],
)
def test_a_state_that_is_a_damaged_pickle_is_an_error(stored: Path, content: bytes) -> None:
    (stored / "state.pt").write_bytes(content)
    sign(stored)
    with pytest.raises(ModelError, match="model is damaged"):
        load(stored)


def test_float_weights_of_other_shapes_are_an_error_that_names_the_layer(
    saved: Callable[..., tuple[Path, nn.Module, Batch]],
) -> None:
    folder, model, _ = saved(NoQuant())
    save_file({**model.state_dict(), "layers.2.bias": torch.zeros(3)}, folder / "state.safetensors")
    sign(folder)
    with pytest.raises(ModelError, match=r"layers\.2\.bias"):
        load(folder)
