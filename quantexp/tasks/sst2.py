"""SST-2: labelled sentences to bags of word counts over the most frequent training words.

A word is what stands between spaces. Ties in frequency are broken by first appearance, so that the
vocabulary is the same everywhere. Words of sentences that are held out for validation are not counted: they
shall shape the inputs no more than those of the test split. The sample is a set of sentences written for quantexp.
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
    """Load SST-2, or its sample. Raises DataError if files are missing, damaged or out of reach."""
    if request.source is DataSource.sample:
        folder = Path(str(resources.files("quantexp.tasks"))) / "sample" / "sst2"
        origin = "sentences written for quantexp, shipped with it"
    else:
        folder, origin = SST2.locate(request)
    content = {name: read_bytes(folder / f"{name}.tsv") for name in ("train", "dev")}
    train, dev = (parse_tsv(content[name], folder / f"{name}.tsv") for name in ("train", "dev"))
    kept, held = ([train[row] for row in rows.tolist()] for rows in held_out(len(train), request))
    frequencies = Counter(word for sentence, _ in kept for word in sentence.split())
    vocabulary = {word: index for index, (word, _) in enumerate(frequencies.most_common(task.vocabulary))}
    known, test = bag_of_words(kept, vocabulary), bag_of_words(dev, vocabulary)
    return TaskData(
        known,
        calibration_split(known, test, request),
        test,
        inputs=counts(len(vocabulary)),
        classes=CLASSES,
        objective=Classification(CLASSES),
        fingerprint=digest(content),
        origin=origin,
        vocabulary=tuple(vocabulary),
        validation=bag_of_words(held, vocabulary) if held else None,
    )


def inputs(task: Sst2, kind: Kind) -> tuple[InputSpec, ...]:
    """Return the one input: how often each word of the vocabulary is in a sentence, as float32."""
    return counts(task.vocabulary)


def classes(task: Sst2) -> int:
    """Return the two: negative and positive."""
    return CLASSES


def encode(task: Sst2, kind: Kind, raw: Any, vocabulary: Sequence[str]) -> tuple[Batch, bool]:
    """Count the words of raw sentences: one gives a batch of one and True, a list one of n and False.

    Raises:
        ModelError: If `raw` is something else.
    """
    sentences = [raw] if isinstance(raw, str) else raw
    rule = "raw inputs of sst2 are a sentence, or a list of at least one sentence, each a str"
    if not isinstance(sentences, list | tuple) or not sentences:
        raise ModelError(f"{rule}; got {repr(raw)[:80]}")
    if wrong := [sentence for sentence in sentences if not isinstance(sentence, str)]:
        raise ModelError(f"{rule}; got {repr(wrong[0])[:80]} among them")
    counted = bag_of_words([(sentence, 0) for sentence in sentences], {w: n for n, w in enumerate(vocabulary)})
    return counted.inputs(torch.arange(len(sentences))), isinstance(raw, str)


def bag_of_words(rows: Rows, vocabulary: dict[str, int]) -> BagOfWords:
    """Return the split of these sentences; words outside the vocabulary are left out."""
    found = [[vocabulary[word] for word in sentence.split() if word in vocabulary] for sentence, _ in rows]
    return BagOfWords(
        labels=torch.tensor([label for _, label in rows]),
        words=torch.tensor([index for sentence in found for index in sentence], dtype=torch.int64),
        starts=torch.tensor([0, *map(len, found)]).cumsum(0),
        vocabulary=len(vocabulary),
    )


def parse_tsv(content: bytes, path: Path) -> Rows:
    """Return (sentence, label) of each line. Raises DataError naming `path`, the line and the fault.

    The file has a header with the columns sentence and label, tabs between, and no quoting.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number, byte = content[: error.start].count(b"\n") + 1, content[error.start]
        raise DataError(f"{path}: line {number} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from None
    header = lines[0].rstrip("\r").split("\t")
    if lacking := [name for name in ("sentence", "label") if name not in header]:
        raise DataError(f"{path}: needs the columns sentence and label, lacks {' and '.join(lacking)}; it has {header}")
    sentence_at, label_at = header.index("sentence"), header.index("label")
    rows: Rows = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(header):
            raise DataError(f"{path}: line {number} has {len(cells)} columns, expected {len(header)}; is it cut off?")
        if cells[label_at] not in ("0", "1"):
            raise DataError(f"{path}: line {number}: label must be 0 or 1, got {cells[label_at]!r}")
        rows.append((cells[sentence_at].strip(), int(cells[label_at])))
    if not rows:
        raise DataError(f"{path}: holds no sentences")
    return rows


def counts(words: int) -> tuple[InputSpec, ...]:
    """Return the one input: how often each of so many words is in a sentence, as float32."""
    return (InputSpec("counts", (words,), "float32", 0.0, 1.0),)
