"""Sentences of the user in tables: four types of files with one result, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from quantexp import tasks
from quantexp.config import (
    Bert,
    DataRequest,
    DataSource,
    Dynamic,
    Experiment,
    Kind,
    Lstm,
    NoQuant,
    Sst2,
    Static,
    Text,
    Train,
)
from quantexp.mission import RunResult, run
from quantexp.storage.stored import load as load_stored
from quantexp.storage.stored import save
from quantexp.system.errors import ConfigError, DataError
from quantexp.tasks import sst2
from quantexp.tasks.data import TaskData
from tests.runs import same_weights

SAMPLE = Path(sst2.__file__).parent / "sample" / "sst2"
TYPES = ("csv", "tsv", "jsonl", "parquet")
Rows = Sequence[tuple[str, Any]]


def write(path: Path, rows: Rows, columns: tuple[str, str] = ("text", "label")) -> None:
    """Write a table of the type that its name says, with a third column that nobody reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = (*columns, "id")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        texts, labels = zip(*rows, strict=True)
        values = {columns[0]: list(texts), columns[1]: list(labels), "id": list(range(len(rows)))}
        pyarrow.parquet.write_table(pyarrow.table(values), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(names, (*row, number), strict=True))) for number, row in enumerate(rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".tsv":
        lines = ["\t".join(map(str, (*row, number))) for number, row in enumerate(rows)]
        path.write_text("\n".join(["\t".join(names), *lines]) + "\n", encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([names, *((*row, number) for number, row in enumerate(rows))])


def loaded(folder: Path, task: Text | None = None, kind: Kind = Kind.features, **request: Any) -> TaskData:
    settings = {"data_dir": str(folder), "cache_dir": str(folder / "cache"), "calibration_examples": 1, **request}
    return tasks.load(task or Text(), kind, DataRequest(**settings))


def refused(folder: Path, task: Text | None = None) -> str:
    with pytest.raises(DataError) as error:
        loaded(folder, task)
    return str(error.value)


ROWS: Rows = (("good film", 1), ("bad film", 0), ("a good one", 1), ("so bad", 0))


@pytest.mark.parametrize("suffix", TYPES)
def test_every_type_of_file_gives_the_same_as_the_task_sst2(
    sample: Callable[..., Experiment], tmp_path: Path, suffix: str
) -> None:
    for name, split in (("train", "train"), ("dev", "test")):
        path = SAMPLE / f"{name}.tsv"
        write(tmp_path / f"{split}.{suffix}", sst2.parse_tsv(path.read_bytes(), path), ("sentence", "polarity"))
    settings: dict[str, Any] = {"quant": NoQuant(), "train": Train(epochs=2), "batch_size": [1]}
    expected = run(sample(task=Sst2(vocabulary=300, hidden=[16]), **settings))
    task = Text(text="sentence", label="polarity", vocabulary=300, hidden=[16])
    found = run(sample(task=task, data="full", data_dir=str(tmp_path), **settings))
    assert found.recipe.vocabulary == expected.recipe.vocabulary
    assert same_weights(found.model, expected.model)
    assert found.report.result.quality == expected.report.result.quality
    assert found.recipe.class_names == (), "labels that are numbers have no names"


def test_the_fingerprint_is_that_of_the_rows_not_of_the_file(tmp_path: Path) -> None:
    for suffix in TYPES:
        write(tmp_path / suffix / f"train.{suffix}", ROWS)
        write(tmp_path / suffix / f"test.{suffix}", ROWS[:2])
    (fingerprint,) = {loaded(tmp_path / suffix).fingerprint for suffix in TYPES}
    write(tmp_path / "csv" / "test.csv", ROWS[1:2])
    assert loaded(tmp_path / "csv").fingerprint != fingerprint


@pytest.mark.parametrize("suffix", TYPES)
def test_every_value_is_text(tmp_path: Path, suffix: str) -> None:
    texts = ["null", "nan", "NA", "5", "007", "1e3", "2021-01-01", "None", "true", 'a "quoted word', "it's", ""]
    write(tmp_path / f"train.{suffix}", [(text, number % 2) for number, text in enumerate(texts)])
    write(tmp_path / f"test.{suffix}", ROWS)
    data = loaded(tmp_path)
    assert data.vocabulary == tuple(" ".join(texts).lower().split())
    (counts,) = data.train.first(len(texts))
    assert counts.sum(1).tolist() == [1] * 9 + [3, 1, 0]


@pytest.mark.parametrize("suffix", TYPES)
def test_labels_may_be_names_which_are_sorted(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"train.{suffix}", [("a", "pos"), ("b", "neg"), ("c", "neutral"), ("d", "pos")])
    write(tmp_path / f"test.{suffix}", [("a", "pos"), ("b", "neg")])
    data = loaded(tmp_path)
    assert (data.classes, data.class_names) == (3, ("neg", "neutral", "pos"))
    assert data.train.labels is not None and data.test.labels is not None
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([2, 0, 1, 2], [2, 0])


@pytest.mark.parametrize(
    ("values", "labels", "names"),
    [
        ([0, 1, 10, 2], [0, 1, 3, 2], ("0", "1", "2", "10")),
        ([-1, 1, 1, -1], [0, 1, 1, 0], ("-1", "1")),
        ([2.0, 1.0, 0.0, 1.0], [2, 1, 0, 1], ()),
        ([True, False, True, True], [1, 0, 1, 1], ("False", "True")),
    ],
    ids=["gaps", "signs", "floats", "bools"],
)
def test_labels_that_are_numbers_are_in_their_order(
    tmp_path: Path, values: list[Any], labels: list[int], names: tuple[str, ...]
) -> None:
    rows = list(zip("abcd", values, strict=True))
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", rows)
    data = loaded(tmp_path)
    assert data.train.labels is not None
    assert (data.train.labels.tolist(), data.class_names) == (labels, names)


def test_the_names_in_a_parquet_file_of_hugging_face_are_those_of_the_classes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    for name in ("train", "test"):
        table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
        table.to_parquet(str(tmp_path / f"{name}.parquet"))
    data = loaded(tmp_path)
    assert data.class_names == ("bad", "good")
    assert data.train.labels is not None and data.train.labels.tolist() == [1, 0]


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_content(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b'\xef\xbb\xbftext,label\r\n"two\r\nlines",a\r\nno,b\r\n\r\n')
    (tmp_path / "test.tsv").write_bytes(b"\xef\xbb\xbftext\tlabel\r\nno\tb\r\n")
    data = loaded(tmp_path)
    assert data.vocabulary == ("two", "lines", "no")
    assert (len(data.train), len(data.test), data.class_names) == (2, 1, ("a", "b"))


def test_line_ends_of_old_computers_give_the_same_table(tmp_path: Path) -> None:
    content = "text\tlabel\ngood film\ta\n\nbad film\tb\n"
    for name, end in (("old", "\r"), ("new", "\n"), ("windows", "\r\n")):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            (tmp_path / name / f"{split}.tsv").write_bytes(content.replace("\n", end).encode())
    old, new, windows = (loaded(tmp_path / name) for name in ("old", "new", "windows"))
    assert (len(old.train), old.vocabulary, old.class_names) == (2, ("film", "good", "bad"), ("a", "b"))
    assert old.fingerprint == new.fingerprint == windows.fingerprint


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("csv", 'text,label\n"good\nfilm",a\nbad film,b\n'),
        ("csv", "\ufefflabel,text\na,good film\nb,bad film"),
        ("jsonl", '{"text": "good film", "label": "a"}\n\n{"text": "bad film", "label": "b"}\n'),
    ],
    ids=["a line end in quotes", "a mark, no last line end", "JSON lines"],
)
@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"], ids=["old", "windows", "new"])
def test_any_line_ends_give_the_same_sentences(tmp_path: Path, suffix: str, content: str, end: str) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.{suffix}").write_bytes(content.replace("\n", end).encode())
    data = loaded(tmp_path)
    assert (len(data.train), data.vocabulary, data.class_names) == (2, ("film", "good", "bad"), ("a", "b"))


@pytest.mark.parametrize(("lowercase", "vocabulary"), [(True, ("good", "film")), (False, ("Good", "good", "film"))])
def test_words_are_counted_in_lower_case_unless_told_otherwise(
    tmp_path: Path, lowercase: bool, vocabulary: tuple[str, ...]
) -> None:
    write(tmp_path / "train.csv", [("Good good", 1), ("film", 0)])
    write(tmp_path / "test.csv", ROWS)
    assert loaded(tmp_path, Text(lowercase=lowercase)).vocabulary == vocabulary


def test_held_out_sentences_do_not_shape_the_vocabulary(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [(f"word{number}", number % 2) for number in range(20)])
    data = loaded(tmp_path, validation=0.25)
    assert data.validation is not None
    assert (len(data.test), len(data.validation), len(data.train)) == (4, 4, 12)
    assert len(data.vocabulary) == 12
    assert float(data.test.first(4)[0].sum()) == 0
    assert data.origin.endswith("20 % of train held out as test")
    assert loaded(tmp_path, validation_seed=1).vocabulary != loaded(tmp_path).vocabulary


def test_reading_writes_into_the_cache_folder_alone_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "data"
    for suffix, split in (("csv", "train"), ("parquet", "test")):
        write(folder / f"{split}.{suffix}", ROWS)
    before = sorted(folder.iterdir())
    loaded(folder, cache_dir=str(tmp_path / "cache"))
    assert sorted(folder.iterdir()) == before
    assert not (tmp_path / "home").exists()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("suffix", TYPES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_column_that_is_missing_is_named_with_those_that_there_are(tmp_path: Path, suffix: str, split: str) -> None:
    write(tmp_path / f"train.{suffix}", ROWS)
    write(tmp_path / f"test.{suffix}", ROWS)
    write(tmp_path / f"{split}.{suffix}", ROWS, ("sentence", "label"))
    request = DataRequest(data_dir=str(tmp_path))
    with pytest.raises(DataError) as error:
        tasks.sources_of(Text()).check(request)
    assert str(error.value) == (
        f"{tmp_path / split}.{suffix}: must have the column task.text=text, it has the columns sentence, label, id; "
        "name one of them, as in task.text=sentence"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.csv",
            b"text,label\na,1\nb,0,3\n",
            "train.csv: cannot be read as CSV (Error tokenizing data. C error: ",
        ),
        ("train.csv", b"text,label\na,1\nb\n", "train.csv: row 2 must have a value in the column label, it is empty"),
        ("train.csv", b"text,label\n", "train.csv: contains no rows; add examples"),
        ("train.csv", b"", "train.csv: contains no rows; add examples"),
        (
            "train.csv",
            b"text,label\na,1,2\nb,0,3\n",
            "train.csv: cannot be read as CSV (row 1 has 3 cells, the header 2)",
        ),
        ("train.csv", b"text,label\n\xff\xfe,1\nb,0\n", "train.csv: cannot be read as CSV (it is not UTF-8: "),
        ("train.csv", b"text,label\n,1\n,0\n", "train.csv: the column task.text=text is empty in all rows"),
        ("train.csv", b"text,label\na,1\nb,1\n", "train.csv: a classification needs at least two classes, found '1'"),
        ("train.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2 must be a JSON object (it is a list); correct it"),
        ("train.jsonl", b'{"text": "a", "label": 1}\n{"text"\n', "line 2 must be a JSON object (Expecting"),
        ("train.jsonl", b'{"text": "a", "label": 1}\n{"text": null, "label": 0}\n', "row 2 must have a value in the"),
        ("train.parquet", b"PAR1", "train.parquet: cannot be read as PARQUET ("),
    ],
)
def test_a_fault_of_a_table_is_one_message(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    write(tmp_path / "test.csv", ROWS)
    assert message in refused(tmp_path)


def test_the_tables_themselves_are_checked(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    assert "must have train.csv, .tsv, .jsonl or .parquet, it has notes.md; rename or add the file" in refused(tmp_path)
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "train.tsv", ROWS)
    assert "must have one file for train, it has train.csv, train.tsv; remove the others" in refused(tmp_path)
    (tmp_path / "train.tsv").unlink()
    write(tmp_path / "test.csv", [("a", "2")])
    assert "test.csv: the class '2' must be in train too, whose classes are '0', '1'; correct the label" in refused(
        tmp_path
    )
    (tmp_path / "test.csv").unlink()
    outside = tmp_path.parent / f"{tmp_path.name}.csv"
    write(outside, ROWS)
    (tmp_path / "test.csv").symlink_to(outside)
    assert "test.csv: a link must lead to a place in the folder of the data set" in refused(tmp_path)


def test_one_column_cannot_be_both() -> None:
    with pytest.raises(ConfigError, match=r"task\.text and task\.label must be two columns, got 'x' for both"):
        Text(text="x", label="x")


def trained(sample: Callable[..., Experiment], folder: Path, **parts: Any) -> RunResult:
    rows = [(f"{word} {number}", word) for number in range(30) for word in ("fine", "awful")]
    write(folder / "train.csv", rows)
    write(folder / "test.csv", rows[:10])
    task = Text(length=4, vocabulary=50)
    settings: dict[str, Any] = {"quant": Static(calibration_examples=16), "train": Train(epochs=10, batch_size=8)}
    return run(sample(**{**settings, "task": task, "data": "full", "data_dir": str(folder), **parts}))


@pytest.mark.parametrize("model", [None, Lstm(embedding=8, hidden=8)], ids=["words", "tokens"])
def test_a_stored_network_predicts_the_name_of_a_class(
    sample: Callable[..., Experiment], tmp_path: Path, model: Lstm | None
) -> None:
    parts = {} if model is None else {"model": model, "quant": Dynamic(), "train": Train(epochs=30, batch_size=8)}
    made = trained(sample, tmp_path / "data", **parts)
    assert made.report.result.quality is not None and made.report.result.quality.value == 1.0
    save(tmp_path / "stored", made.model, made.recipe)
    network = load_stored(tmp_path / "stored")
    assert network.predict("FINE 3").name == "fine"  # type: ignore[union-attr]
    assert [found.name for found in network.predict(["awful 3", "fine"])] == ["awful", "fine"]  # type: ignore[union-attr]
    unknown = ["unheard-of", "???", "", " \t\n", "\u200b", "42"]  # not one known word
    for prediction in network.predict(unknown):  # type: ignore[union-attr]
        assert sum(prediction.probabilities) == pytest.approx(1)


@pytest.mark.parametrize("model", [Lstm(embedding=8, hidden=8), Bert(hidden=16, heads=2, layers=1, feed_forward=16)])
def test_random_sentences_need_no_files(sample: Callable[..., Experiment], model: Any) -> None:
    task = Text(length=4, vocabulary=50, classes=3)
    report = run(sample(task=task, data=DataSource.synthetic, model=model, quant=Dynamic(), batch_size=[1])).report
    assert report.data.source == "synthetic"
    assert report.result.quality is None


def test_tokens_are_those_of_sst2(tmp_path: Path) -> None:
    for name, split in (("train", "train"), ("dev", "test")):
        path = SAMPLE / f"{name}.tsv"
        write(tmp_path / f"{split}.csv", sst2.parse_tsv(path.read_bytes(), path))
    found = loaded(tmp_path, Text(length=12), Kind.tokens)
    expected = sst2.load(Sst2(length=12), Kind.tokens, DataRequest(DataSource.sample, calibration_examples=1))
    for one, other in zip(found.train.first(50), expected.train.first(50), strict=True):
        assert torch.equal(one, other)
    assert found.inputs == expected.inputs
