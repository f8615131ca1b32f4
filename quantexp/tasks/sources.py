"""The files of each data set and their downloads. Imports no torch and no numpy: the check before a run is fast."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from quantexp.config import Arrays, Audio, CustomTask, DataRequest, Images, Task, Text
from quantexp.system import own_code
from quantexp.system.errors import DataError
from quantexp.tasks.files import DataFiles, Source
from quantexp.tasks.listing import AUDIO, IMAGES
from quantexp.tasks.tables import Tables

MNIST_RAW = Path("MNIST") / "raw"
MNIST_NAMES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
# The list of torchvision, repeated here because importing torchvision is slow (a test compares them).
MNIST_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")

SST2_ID = "stanfordnlp/sst2"
SST2_REVISION = "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb"
SST2_ROWS = {"train": 67_349, "dev": 872}


TOKENIZER = "tokenizer.json"  # as Hugging Face names it


def _missing_mnist(folder: Path) -> str | None:
    for name in MNIST_NAMES.values():
        if not any((folder / MNIST_RAW / f"{name}{suffix}").is_file() for suffix in ("", ".gz")):
            return str(MNIST_RAW / f"{name}.gz")
    return None


def _download_mnist(folder: Path) -> None:
    """Download MNIST into `folder`; torchvision checks the MD5 sums."""
    from torchvision.datasets import MNIST as TorchvisionMnist

    TorchvisionMnist(str(folder), download=True)


def _missing_sst2(folder: Path) -> str | None:
    return next((name for name in ("train.tsv", "dev.tsv") if not (folder / name).is_file()), None)


def _download_sst2(folder: Path) -> None:
    """Download the pinned revision into `folder`, as two files in the format of GLUE."""
    import datasets

    if Path(SST2_ID).exists():  # datasets would silently read it instead of the hub
        raise DataError(f"the folder ./{SST2_ID} hides the data set of that name; run quantexp in another directory")
    scratch = folder / "download"
    hub = datasets.load_dataset(SST2_ID, revision=SST2_REVISION, cache_dir=str(scratch))
    for name, split in (("train", "train"), ("dev", "validation")):
        sentences, labels = hub[split]["sentence"], hub[split]["label"]
        if len(labels) != SST2_ROWS[name]:
            raise DataError(f"{SST2_ID}: {name} must have {SST2_ROWS[name]:,} rows, the download has {len(labels):,}")
        lines = [f"{sentence}\t{label}\n" for sentence, label in zip(sentences, labels, strict=True)]
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines), encoding="utf-8", newline="\n")
    shutil.rmtree(scratch)


def _sst2_hosts() -> list[str]:
    from huggingface_hub import constants

    return [] if constants.HF_HUB_OFFLINE else [constants.ENDPOINT]


MNIST = DataFiles("mnist", _missing_mnist, _download_mnist, lambda: list(MNIST_MIRRORS))
SST2 = DataFiles("sst2", _missing_sst2, _download_sst2, _sst2_hosts)


def tokenizer_file(place: str) -> Path:
    """Return the file with a tokenizer of Hugging Face: `place`, or tokenizer.json if that is a folder."""
    path = Path(place).expanduser()
    return path / TOKENIZER if path.is_dir() else path


def mnist(task: Task) -> Source:
    """Return the source of MNIST."""
    return MNIST


def sst2(task: Task) -> Source:
    """Return the source of SST-2."""
    return SST2


def images(task: Images) -> Source:
    """Return the source of image files of the user."""
    return IMAGES


def text(task: Text) -> Source:
    """Return the source of tables of the user."""
    return Tables(task.text, task.label)


def audio(task: Audio) -> Source:
    """Return the source of sound files of the user."""
    return AUDIO


def arrays(task: Arrays) -> Source:
    """Return the source of arrays of the user."""
    from quantexp.tasks.npz import ArrayFiles  # imports numpy

    return ArrayFiles()


@dataclass(frozen=True)
class OwnCode:
    """The source of a task that is a class or function of the user and reads its data itself."""

    target: str

    def check(self, request: DataRequest) -> None:
        """Check that the module exists. Raises ConfigError."""
        own_code.check("task.target", self.target)

    def stamp(self, request: DataRequest) -> object:
        """Return a new value in each call: what the code reads is not known, so the data are loaded for each run."""
        return object()

    def locate(self, request: DataRequest) -> None:
        """Return None: the files are not known."""


def own(task: CustomTask) -> Source:
    """Return the source of a task of the user."""
    return OwnCode(str(task.target))
