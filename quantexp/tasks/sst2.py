"""SST-2: labelled sentences, as bags of words or as tokens.

Like the test split, sentences that are held out for validation do not contribute to the vocabulary. The sample is a
set of sentences written for quantexp.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from quantexp.config import DataRequest, DataSource, Kind, Sst2
from quantexp.system.errors import DataError
from quantexp.tasks import words
from quantexp.tasks.data import Split, TaskData, calibration_split, digest, held_out
from quantexp.tasks.files import read_bytes
from quantexp.tasks.objectives.classification import Classification
from quantexp.tasks.sources import SST2

CLASS_NAMES = ("negative", "positive")
CLASSES = len(CLASS_NAMES)

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
    preparation = words.learned(task, kind, [sentence for sentence, _ in training])

    def made(rows: Rows) -> Split:
        sentences, labels = zip(*rows, strict=True)
        return words.split(task, kind, sentences, labels, preparation)

    learning, test = made(training), made(dev)
    return TaskData(
        learning,
        calibration_split(learning, test, request),
        test,
        inputs=preparation.inputs,
        classes=CLASSES,
        objective=Classification(CLASSES),
        fingerprint=words.fingerprint(digest(content), preparation),
        origin=origin,
        vocabulary=preparation.vocabulary,
        tokenizer=preparation.tokenizer,
        class_names=CLASS_NAMES,
        validation=made(validation) if validation else None,
    )


inputs, specs, encode = words.expected, words.specs, words.encode


def classes(task: Sst2) -> int:
    """Return 2: negative and positive."""
    return CLASSES


def parse_tsv(content: bytes, path: Path) -> Rows:
    """Return (sentence, label) of each line. Raises DataError, which names `path`, the line and the error.

    The file has a header, the columns sentence and label, tabs as separators, and no quotes.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        end = b"\n" if b"\n" in content else b"\r"
        number, byte = content[: error.start].count(end) + 1, content[error.start]
        raise DataError(f"{path}: line {number} is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from None
    lines = text.split("\n" if "\n" in text else "\r")  # the line ends of old Macs
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
