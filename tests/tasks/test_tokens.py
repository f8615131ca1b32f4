"""Sentences as tokens: numbers of words, or of a tokenizer of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from quantexp.config import DataRequest, DataSource, Experiment, Kind, Lstm, NoQuant, Sentences, Sst2
from quantexp.mission import load
from quantexp.results import InputSpec
from quantexp.storage.stored import load as load_stored
from quantexp.storage.stored import save
from quantexp.system.errors import ConfigError, DataError
from quantexp.tasks import words
from quantexp.tasks.preparation import Preparation
from quantexp.tasks.words import PADDING, UNKNOWN, Tokens

FOUND = Preparation(vocabulary=("a", "film"))


def ids(task: Sentences, sentence: str, preparation: Preparation = FOUND) -> list[int]:
    (numbers, mask), _ = words.encode(task, Kind.tokens, sentence, preparation)
    assert mask.sum() == (mask[0].cumprod(0)).sum(), "a mask is ones, then zeros"
    return numbers[0][: int(mask.sum())].tolist()


def test_tokens_are_numbers_of_words_after_those_of_padding_and_of_unknown_words() -> None:
    assert ids(Sst2(), "a dull film") == [2, UNKNOWN, 3]
    (numbers, mask), _ = words.encode(Sst2(length=4), Kind.tokens, ["a", ""], FOUND)
    assert numbers.tolist() == [[2, PADDING, PADDING, PADDING], [PADDING] * 4]
    assert mask.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_more_tokens_than_the_length_are_cut_off() -> None:
    assert ids(Sst2(length=2), "a a a film") == [2, 2]


def test_the_sample_gives_tokens_of_its_words() -> None:
    data = load(Experiment(task=Sst2(vocabulary=50, length=12), model=Lstm(), data=DataSource.sample))
    assert data.inputs == (
        InputSpec("ids", (12,), "int64", 0, 51),
        InputSpec("mask", (12,), "int64", 0, 1),
    )
    assert isinstance(data.train, Tokens)
    assert data.train.ids.dtype is torch.int32
    batch = data.train.first(5)
    assert [tuple(tensor.shape) for tensor in batch] == [(5, 12)] * 2
    assert int(batch[0].max()) <= 51


def test_a_split_of_some_rows_has_their_tokens() -> None:
    split = words.split(Sst2(length=3), Kind.tokens, ["a", "film a", "", "film"], [0, 1, 0, 1], FOUND)
    rows = torch.tensor([1, 2, 3])
    for whole, taken in zip(split.inputs(rows), split.take(rows).first(3), strict=True):
        assert torch.equal(whole, taken)
    assert split.take(rows).labels is not None


def test_what_is_padding_in_all_sentences_of_a_batch_is_left_out_while_training() -> None:
    split = words.split(Sst2(length=9), Kind.tokens, ["a", "film a film"], [0, 1], FOUND)
    shortened = split.shortened(split.first(2))
    assert [tensor.shape for tensor in shortened] == [(2, 3)] * 2
    assert split.shortened(split.first(1))[0].shape == (1, 1)


# --- a tokenizer of Hugging Face -------------------------------------------------------------------


def tokenizer(folder: Path) -> Path:
    """A tokenizer of four words, which puts [CLS] before a sentence."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "good": 3, "film": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_a_tokenizer_of_hugging_face_makes_the_tokens(tmp_path: Path) -> None:
    task = Sst2(tokenizer=str(tokenizer(tmp_path)), length=4)
    found = words.learned(task, Kind.tokens, ["not used"])
    assert found.inputs[0] == InputSpec("ids", (4,), "int64", 0, 4)
    assert ids(task, "Good, good", found) == [2, 3, 1, 3]
    assert ids(task, "good good good good", found) == [2, 3, 3, 3], "the first tokens are kept, [CLS] among them"


def test_it_is_stored_with_the_network_which_predicts_without_its_folder(tmp_path: Path) -> None:
    from quantexp.mission import run

    folder = tokenizer(tmp_path / "tokenizer")
    task = Sst2(tokenizer=str(folder), length=8)
    made = run(quick(task=task))
    save(tmp_path / "stored", made.model, made.recipe)
    (folder / "tokenizer.json").unlink()
    loaded = load_stored(tmp_path / "stored")
    found = loaded.predict(["a good film", "film"])
    assert isinstance(found, list)
    assert {prediction.name for prediction in found} <= {"negative", "positive"}


def test_another_tokenizer_at_the_same_place_makes_other_data(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path)
    task = Sst2(tokenizer=str(folder))
    before = load(Experiment(task=task, model=Lstm(), data=DataSource.sample)).fingerprint
    described = json.loads((folder / "tokenizer.json").read_text())
    described["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(described))
    assert load(Experiment(task=task, model=Lstm(), data=DataSource.sample)).fingerprint != before


def quick(**changes: Any) -> Experiment:
    from quantexp.config import Paired

    settings = {
        "model": Lstm(embedding=8, hidden=8),
        "quant": NoQuant(),
        "data": DataSource.sample,
        "benchmark": Paired(seconds=0.05, placements=2),
    }
    return Experiment(**{**settings, **changes}, batch_size=[1])


@pytest.mark.parametrize("content", [None, "no json", '{"version": "1.0"}'], ids=["none", "text", "no model"])
def test_a_tokenizer_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"task\.tokenizer=.* must be a tokenizer\.json .*correct it, or make one"):
        words.learned(Sst2(tokenizer=str(tmp_path)), Kind.tokens, [])


def test_an_optional_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tokenizer(tmp_path)
    monkeypatch.setattr("quantexp.system.extras.find_spec", lambda name: None)
    words._tokenizer.cache_clear()
    with pytest.raises(ConfigError, match=r"needs the package tokenizers, which is not installed; run: pip install"):
        words.learned(Sst2(tokenizer=str(folder)), Kind.tokens, [])


def test_quality_is_measured_on_as_many_examples_as_asked_for_drawn_with_the_seed() -> None:
    def of(seed: int, count: int | None) -> list[str]:
        request = DataRequest(DataSource.sample, evaluated=count, validation_seed=seed)
        from quantexp import tasks

        test = tasks.load(Sst2(length=8), Kind.tokens, request).test
        return [str(row) for row in test.first(len(test))[0].tolist()]

    whole, some, others = of(0, None), of(0, 10), of(1, 10)
    assert (len(some), len(others)) == (10, 10)
    assert some != others
    assert [row for row in whole if row in some] == some, "in the order of the split"
    assert of(0, len(whole) + 5) == whole
