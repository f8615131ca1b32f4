"""SST-2: labelled sentences as bags of words, counts over the most frequent training words.

Words are separated by spaces. Ties in frequency are broken by first appearance, so that the vocabulary is the same
everywhere. Like the test split, sentences that are held out for validation do not contribute to the vocabulary. The
sample is a set of sentences written for quantexp.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from quantexp.config import DataRequest, DataSource, Kind, Sst2
from quantexp.results import InputSpec
from quantexp.system.errors import DataError, ModelError
from quantexp.tasks.data import BagOfWords, TaskData, calibration_split, digest, held_out
from quantexp.tasks.files import read_bytes
from quantexp.tasks.inputs import Batch
from quantexp.tasks.objectives.classification import Classification
from quantexp.tasks.sources import SST2

CLASSES = 2

Rows = list[tuple[str, int]]


def load(task: Sst2, kind: Kind, request: DataRequest) -> TaskData:
    """Load SST-2, or its sample. Raises DataError if files are missing, damaged or cannot be downloaded."""
    if request.source is DataSource.sample:
        folder = Path(str(resources.files("quantexp.tasks"))) / "sample" / "sst2"
        origin = "sentences written for quantexp, shipped with it"
    else:
        folder, origin = SST2.locate(request)
    content = {name: read_bytes(folder / f"{name}.tsv") for name in ("train", "dev")}
    train, dev = (parse_tsv(content[name], folder / f"{name}.tsv") for name in ("train", "dev"))
    training, validation = ([train[row] for row in rows.tolist()] for rows in held_out(len(train), request))
    frequencies = Counter(word for sentence, _ in training for word in sentence.split())
    vocabulary = {word: index for index, (word, _) in enumerate(frequencies.most_common(task.vocabulary))}
    bags, test = bag_of_words(training, vocabulary), bag_of_words(dev, vocabulary)
    return TaskData(
        bags,
        calibration_split(bags, test, request),
        test,
        inputs=counts(len(vocabulary)),
        classes=CLASSES,
        objective=Classification(CLASSES),
        fingerprint=digest(content),
        origin=origin,
        vocabulary=tuple(vocabulary),
        validation=bag_of_words(validation, vocabulary) if validation else None,
    )


def inputs(task: Sst2, kind: Kind) -> tuple[InputSpec, ...]:
    """Return the only input: the count of each word of the vocabulary, as float32."""
    return counts(task.vocabulary)


def classes(task: Sst2) -> int:
    """Return 2: negative and positive."""
    return CLASSES


def encode(task: Sst2, kind: Kind, raw: Any, vocabulary: Sequence[str]) -> tuple[Batch, bool]:
    """Count the words of raw sentences: a str gives a batch of one and True, a list of n a batch of n and False.

    Raises:
        ModelError: If `raw` has another form.
    """
    sentences = [raw] if isinstance(raw, str) else raw
    rule = "raw inputs of sst2 must be a sentence, or a list of at least one sentence, each a str"
    if not isinstance(sentences, list | tuple) or not sentences:
        raise ModelError(f"{rule}; got {repr(raw)[:80]}")
    if wrong := [sentence for sentence in sentences if not isinstance(sentence, str)]:
        raise ModelError(f"{rule}; the list contains {repr(wrong[0])[:80]}")
    counted = bag_of_words([(sentence, 0) for sentence in sentences], {w: n for n, w in enumerate(vocabulary)})
    return counted.inputs(torch.arange(len(sentences))), isinstance(raw, str)


def bag_of_words(rows: Rows, vocabulary: dict[str, int]) -> BagOfWords:
    """Return a split of these sentences; words outside the vocabulary are ignored."""
    found = [[vocabulary[word] for word in sentence.split() if word in vocabulary] for sentence, _ in rows]
    return BagOfWords(
        labels=torch.tensor([label for _, label in rows]),
        words=torch.tensor([index for sentence in found for index in sentence], dtype=torch.int64),
        starts=torch.tensor([0, *map(len, found)]).cumsum(0),
        vocabulary=len(vocabulary),
    )


def parse_tsv(content: bytes, path: Path) -> Rows:
    """Return (sentence, label) of each line. Raises DataError, which names `path`, the line and the error.

    The file has a header, the columns sentence and label, tabs as separators, and no quotes.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number, byte = content[: error.start].count(b"\n") + 1, content[error.start]
        raise DataError(f"{path}: line {number} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from None
    header = lines[0].rstrip("\r").split("\t")
    if lacking := [name for name in ("sentence", "label") if name not in header]:
        raise DataError(
            f"{path}: must have the columns sentence and label, lacks {' and '.join(lacking)}; its header is {header}"
        )
    sentence_at, label_at = header.index("sentence"), header.index("label")
    rows: Rows = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(header):
            raise DataError(
                f"{path}: line {number} has {len(cells)} columns, expected {len(header)}; "
                "the file may be cut off, download it again"
            )
        if cells[label_at] not in ("0", "1"):
            raise DataError(f"{path}: line {number}: label must be 0 or 1, got {cells[label_at]!r}")
        rows.append((cells[sentence_at].strip(), int(cells[label_at])))
    if not rows:
        raise DataError(f"{path}: contains no sentences")
    return rows


def counts(words: int) -> tuple[InputSpec, ...]:
    """Return the only input for a vocabulary of that many words: the count of each word, as float32."""
    return (InputSpec("counts", (words,), "float32", 0.0, 1.0),)
