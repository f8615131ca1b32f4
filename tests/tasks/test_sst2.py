"""SST-2: sentences to counts of words, the small sample, and the examples drawn for calibration."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantexp.config import CalibrationSplit, DataRequest, DataSource, Kind, Sst2
from quantexp.system.errors import ConfigError, DataError, ModelError
from quantexp.tasks import sst2, words
from quantexp.tasks.data import Split, TaskData
from quantexp.tasks.preparation import Preparation
from quantexp.tasks.sst2 import parse_tsv
from quantexp.tasks.words import BagOfWords, counts

HERE = Path("reviews.tsv")  # named in errors, never read
HEADER = "sentence\tlabel\n"


def tsv(*rows: str) -> bytes:
    return (HEADER + "".join(f"{row}\n" for row in rows)).encode()


def every_input(split: Split) -> list[list[float]]:
    return counted(split).tolist()


def counted(split: Split) -> Tensor:
    """Return the counts of all sentences of a split."""
    (values,) = split.inputs(torch.arange(len(split)))
    return values


def encode(raw: object, vocabulary: tuple[str, ...]) -> Tensor:
    """Return the counts of raw sentences."""
    (values,), _ = sst2.encode(Sst2(), Kind.features, raw, Preparation(vocabulary=vocabulary))
    return values


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., TaskData]:
    """Write the two files and load them; keywords go into the request."""

    def load_it(train: bytes, dev: bytes, vocabulary: int = 5000, **request: object) -> TaskData:
        folder = tmp_path / "sst2"
        folder.mkdir(exist_ok=True)
        (folder / "train.tsv").write_bytes(train)
        (folder / "dev.tsv").write_bytes(dev)
        settings = {"data_dir": str(tmp_path), "calibration_examples": 1, **request}
        return sst2.load(Sst2(vocabulary=vocabulary), Kind.features, DataRequest(**settings))  # type: ignore[arg-type]

    return load_it


def load_sample() -> TaskData:
    return sst2.load(Sst2(), Kind.features, DataRequest(DataSource.sample))


# --- files -----------------------------------------------------------------------------------------


def test_each_line_is_a_sentence_and_its_label() -> None:
    rows = parse_tsv(tsv("a fine film \t1", "it \" is ' dull\t0"), HERE)
    assert rows == [("a fine film", 1), ("it \" is ' dull", 0)]  # quotes are words like others


@pytest.mark.parametrize(
    "content",
    [
        b"sentence\tlabel\na fine film\t1\ndull\t0",
        b"sentence\tlabel\r\na fine film\t1\r\ndull\t0\r\n",
        b"sentence\tlabel\n\na fine film\t1\ndull\t0\n\n",
        b"label\tsentence\n1\ta fine film\n0\tdull\n",
        b"idx\tsentence\tlabel\n0\ta fine film\t1\n1\tdull\t0\n",
        b"sentence\tlabel\ra fine film\t1\rdull\t0\r",
        b"sentence\tlabel\ra fine film\t1\rdull\t0",
        b"sentence\tlabel\r\ra fine film\t1\rdull\t0\r\r",
        b"\xef\xbb\xbflabel\tsentence\r1\ta fine film\r0\tdull\r",
    ],
    ids=[
        *("no last line feed", "line ends of Windows", "blank lines", "columns swapped", "one more column"),
        *("line ends of old Macs", "of old Macs, no last", "of old Macs, blank lines", "of old Macs, a mark, swapped"),
    ],
)
def test_harmless_differences_between_files_change_nothing(content: bytes) -> None:
    assert parse_tsv(content, HERE) == [("a fine film", 1), ("dull", 0)]


def test_only_a_line_feed_ends_a_line() -> None:
    content = "sentence\tlabel\nfine\u2028film\t1\nit\x85is dull\t0\n".encode()
    assert [label for _, label in parse_tsv(content, HERE)] == [1, 0]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "must have the columns sentence and label, lacks sentence and label"),
        (b"fine\t1\ndull\t0\n", "lacks sentence and label; its header is ['fine', '1']"),
        (b"text\tlabel\nfine\t1\n", "lacks sentence; its header is ['text', 'label']"),
        (b"sentence\tclass\nfine\t1\n", "lacks label; its header is ['sentence', 'class']"),
        (b"sentence,label\nfine,1\n", "lacks sentence and label; its header is ['sentence,label']"),
        (tsv("fine\t1", "a sentence that ends in the mid"), "line 3 has 1 columns, expected 2"),
        (tsv("fine\t1", "du\tll\t0"), "line 3 has 3 columns, expected 2"),
        (tsv("fine\t1", "dull\t"), "line 3: label must be 0 or 1, got ''"),
        (tsv("fine\t1", "dull\t0", "odd\t2"), "line 4: label must be 0 or 1, got '2'"),
        (tsv("hidden\t-1"), "line 2: label must be 0 or 1, got '-1'"),
        (tsv("fine\tpositive"), "line 2: label must be 0 or 1, got 'positive'"),
        (tsv("fine\t1", "dull\t0") + b"caf\xe9\t1\n", "line 4 is not UTF-8 (byte 0xe9)"),
        (b"sentence\tlabel\rfine\t1\rcaf\xe9\t1\r", "line 3 is not UTF-8 (byte 0xe9)"),
        (b"\xff\xfe" + HEADER.encode("utf-16-le"), "line 1 is not UTF-8 (byte 0xff)"),
        (HEADER.encode(), "contains no sentences"),
        (tsv("", "  "), "contains no sentences"),
    ],
    ids=[
        "empty",
        "no header",
        "no sentence column",
        "no label column",
        "commas",
        "cut off in a sentence",
        "a tab too many",
        "cut off before the label",
        "label 2",
        "label -1",
        "label in words",
        "latin-1",
        "latin-1, line ends of old Macs",
        "utf-16",
        "header alone",
        "blank lines alone",
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_fault(content: bytes, fault: str) -> None:
    with pytest.raises(DataError) as error:
        parse_tsv(content, HERE)
    assert str(error.value).startswith("reviews.tsv: ")
    assert fault in str(error.value)


@pytest.mark.parametrize("damaged", ["train", "dev"])
def test_damaged_data_are_refused_with_the_path_of_the_file(
    load: Callable[..., TaskData], tmp_path: Path, damaged: str
) -> None:
    good = tsv("fine\t1", "dull\t0")
    contents = {"train": good, "dev": good, damaged: good + b"cut"}
    where = re.escape(str(tmp_path / "sst2" / f"{damaged}.tsv"))
    with pytest.raises(DataError, match=f"^{where}: line 4 has 1 columns"):
        load(contents["train"], contents["dev"])


# --- counts ----------------------------------------------------------------------------------------


def test_an_input_counts_each_word_of_the_vocabulary(load: Callable[..., TaskData]) -> None:
    data = load(train=tsv("b a b b a c\t1", "c d\t0"), dev=tsv("d c d unheard\t0", "a\t1"))
    # trained words by frequency: b 3, a 2, c 2, d 1; a was seen before c
    assert every_input(data.train) == [[3, 2, 1, 0], [0, 0, 1, 1]]
    assert every_input(data.test) == [[0, 0, 1, 2], [0, 1, 0, 0]]
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 0], [0, 1])
    assert (data.inputs, data.classes) == (counts(4), 2)
    assert data.example[0].dtype == torch.float32
    assert data.train.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("vocabulary", "expected"), [(1, [[2]]), (2, [[2, 2]]), (3, [[2, 2, 2]]), (4, [[2, 2, 2, 1]]), (5, [[2, 2, 2, 1]])]
)
def test_words_of_equal_frequency_enter_the_vocabulary_by_first_appearance(
    load: Callable[..., TaskData], vocabulary: int, expected: list[list[int]]
) -> None:
    train = tsv("z y x x y z w\t1")
    assert every_input(load(train, train, vocabulary).train) == expected
    first_of_three = load(train, tsv("z\t1", "y\t1", "x\t1"), vocabulary=1).test
    assert every_input(first_of_three) == [[1], [0], [0]]


def test_words_of_the_test_split_do_not_enter_the_vocabulary(load: Callable[..., TaskData]) -> None:
    data = load(train=tsv("a\t1", "b\t0"), dev=tsv("new new new\t1", "a new\t0"))
    assert data.inputs[0].values == 2
    assert every_input(data.test) == [[0, 0], [1, 0]]


def test_a_word_is_what_stands_between_spaces(load: Callable[..., TaskData]) -> None:
    data = load(train=tsv("It it it's , ,\t1"), dev=tsv("it\t1"), vocabulary=4)
    assert data.inputs[0].values == 4  # "," It it it's
    assert every_input(data.train) == [[2, 1, 1, 1]]
    assert every_input(data.test) == [[0, 0, 1, 0]]


def test_inputs_come_for_any_rows_in_any_order() -> None:
    found = Preparation(vocabulary=("a", "b"))
    split = words.split(Sst2(), Kind.features, ["a", "", "b b a"], [0, 1, 1], found)
    assert split.inputs(torch.tensor([2, 0, 2, 1]))[0].tolist() == [[1, 2], [1, 0], [1, 2], [0, 0]]
    assert split.inputs(torch.tensor([1]))[0].tolist() == [[0, 0]]
    taken = split.take(torch.tensor([2, 1]))
    assert every_input(taken) == [[1, 2], [0, 0]]
    assert taken.labels.tolist() == [1, 1]


def test_batches_give_the_same_counts_as_all_rows_at_once() -> None:
    train = load_sample().train
    whole = counted(train)
    pieces = [values for (values,), _ in train.batches(64)]
    assert [len(piece) for piece in pieces] == [64] * 10
    assert torch.equal(torch.cat(pieces), whole)


def test_counts_stay_sparse_until_a_batch_is_made(load: Callable[..., TaskData]) -> None:
    rows = [f"word{i} word{i + 1} common\t{i % 2}" for i in range(300)]
    data = load(tsv(*rows), tsv(*rows[:50]), calibration_examples=100)
    assert data.inputs[0].values == 302  # word0 to word300, common
    for split, sentences in ((data.train, 300), (data.calibration, 100), (data.test, 50)):
        assert isinstance(split, BagOfWords)
        held = [getattr(split, field.name) for field in dataclasses.fields(split)]
        tensors = [value for value in held if isinstance(value, Tensor)]
        assert len(tensors) == 3
        assert max(tensor.numel() for tensor in tensors) == 3 * sentences  # its words


# --- raw inputs ------------------------------------------------------------------------------------


def test_a_sentence_is_counted_as_in_the_data() -> None:
    assert encode("b a  b unknown", ("a", "b")).tolist() == [[1, 2]]
    assert encode(["b", "", "A a\n"], ("a", "b")).tolist() == [[0, 1], [0, 0], [1, 0]]
    assert encode(("b",), ("a", "b")).tolist() == [[0, 1]]


@pytest.mark.parametrize(("raw", "single"), [("a fine film", True), (["a fine film"], False), (("a", "b"), False)])
def test_one_sentence_is_told_from_a_list_of_one(raw: object, single: bool) -> None:
    assert sst2.encode(Sst2(), Kind.features, raw, Preparation(vocabulary=("a",)))[1] is single


def test_test_sentences_are_encoded_to_the_inputs_of_the_test_split() -> None:
    data = load_sample()
    sentences = [sentence for sentence, _ in sample_rows("dev")]
    assert torch.equal(encode(sentences, data.vocabulary), counted(data.test))
    assert len(data.vocabulary) == data.inputs[0].values


@pytest.mark.parametrize("raw", [b"fine", [], (), 3, None, {"fine"}, ["fine", b"fine"], [["fine"]]], ids=repr)
def test_what_is_no_sentence_is_refused(raw: object) -> None:
    with pytest.raises(
        ModelError, match=r"a sentence, or a list of at least one sentence, each a str; (got|the list contains) "
    ):
        encode(raw, ("fine",))


# --- calibration -----------------------------------------------------------------------------------


def numbered(count: int, prefix: str) -> bytes:
    """Return sentences of one word each, which is its own."""
    return tsv(*(f"{prefix}{i}\t{i % 2}" for i in range(count)))


def rows_of(split: Split) -> list[int]:
    """Return, for sentences of one word each, which word it is."""
    inputs = counted(split)
    assert inputs.sum(1).tolist() == [1.0] * len(split)
    return inputs.argmax(1).tolist()


def test_calibration_examples_are_distinct_training_examples_with_their_labels(load: Callable[..., TaskData]) -> None:
    calibration = load(numbered(40, "w"), numbered(5, "w"), calibration_examples=10).calibration
    rows = rows_of(calibration)
    assert len(set(rows)) == len(rows) == 10
    assert max(rows) >= 5  # so they are not drawn from test
    assert calibration.labels.tolist() == [row % 2 for row in rows]


def test_the_seed_decides_which_examples_calibrate(load: Callable[..., TaskData]) -> None:
    def drawn(seed: int) -> list[int]:
        return rows_of(load(numbered(40, "w"), numbered(5, "w"), calibration_examples=10, seed=seed).calibration)

    assert drawn(3) == drawn(3)
    assert set(drawn(3)) != set(drawn(4))


def test_calibration_on_test_draws_from_test(load: Callable[..., TaskData]) -> None:
    settings = {"calibration": CalibrationSplit.test, "calibration_examples": 5}
    calibration = load(numbered(40, "w"), numbered(5, "w"), **settings).calibration
    assert sorted(rows_of(calibration)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("split", "size"), [(CalibrationSplit.train, 40), (CalibrationSplit.test, 5)])
def test_more_calibration_examples_than_there_are_is_refused(
    load: Callable[..., TaskData], split: CalibrationSplit, size: int
) -> None:
    rule = f"quant.calibration_examples must be at most {size}, the size of the {split.value} split, got {size + 1}"
    with pytest.raises(ConfigError, match=rule):
        load(numbered(40, "w"), numbered(5, "w"), calibration=split, calibration_examples=size + 1)


# --- the sample ------------------------------------------------------------------------------------


def sample_rows(name: str) -> list[tuple[str, int]]:
    import quantexp.tasks

    path = Path(next(iter(quantexp.tasks.__path__))) / "sample" / "sst2" / f"{name}.tsv"
    return parse_tsv(path.read_bytes(), path)


def test_the_sample_has_640_sentences_to_train_on_and_160_to_test() -> None:
    data = load_sample()
    assert (len(data.train), len(data.test), len(data.calibration)) == (640, 160, 512)
    for split in (data.train, data.test):
        assert set(split.labels.tolist()) == {0, 1}


def test_no_sentence_of_the_sample_appears_twice_or_in_both_splits() -> None:
    train, dev = ([sentence for sentence, _ in sample_rows(name)] for name in ("train", "dev"))
    assert len(set(train) | set(dev)) == len(train) + len(dev) == 800


def test_the_sample_counts_every_word_of_its_training_sentences() -> None:
    data = load_sample()
    words = [sentence.split() for sentence, _ in sample_rows("train")]
    assert data.inputs[0].values == len({word for sentence in words for word in sentence})  # fewer than 5000
    assert counted(data.train).sum(1).tolist() == [len(sentence) for sentence in words]
    assert data.train.labels.tolist() == [label for _, label in sample_rows("train")]


def test_the_sample_stays_sparse() -> None:
    train = load_sample().train
    words = sum(len(sentence.split()) for sentence, _ in sample_rows("train"))
    held = [getattr(train, field.name) for field in dataclasses.fields(train)]
    assert max(value.numel() for value in held if isinstance(value, Tensor)) == words


def test_calibration_examples_of_the_sample_are_training_examples() -> None:
    data = load_sample()
    trained = {tuple(row) for row in every_input(data.train)}
    assert all(tuple(row) in trained for row in every_input(data.calibration))


def test_one_changed_word_changes_the_fingerprint(load: Callable[..., TaskData]) -> None:
    first = load(tsv("a\t1", "b\t0"), tsv("a\t1")).fingerprint
    assert load(tsv("a\t1", "b\t0"), tsv("a\t1")).fingerprint == first
    assert load(tsv("a\t1", "c\t0"), tsv("a\t1")).fingerprint != first
    assert load(tsv("a\t1", "b\t0"), tsv("b\t1")).fingerprint != first
