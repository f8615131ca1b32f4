"""The user's own files at a real size: MNIST as PNG, SST-2 in four types of tables, digits as arrays, sounds."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from quantexp.config import (
    Arrays,
    Audio,
    DataRequest,
    Dynamic,
    Experiment,
    Images,
    Lenet5,
    NoQuant,
    Paired,
    Quant,
    Sst2,
    Static,
    Task,
    Text,
    Train,
    Wav2Vec2,
)
from quantexp.mission import RunResult, run
from quantexp.storage.stored import load as load_stored
from quantexp.storage.stored import save
from quantexp.system.errors import DataError
from quantexp.tasks import sst2
from quantexp.tasks.mnist import parse_idx
from quantexp.tasks.sources import MNIST, MNIST_NAMES, MNIST_RAW
from tests.runs import same_weights
from tests.tasks.test_text import TYPES, write

pytestmark = pytest.mark.slow

Run = Callable[..., RunResult]


@pytest.fixture
def ran(tmp_path: Path) -> Run:
    """Run a task on files in a folder, with the least benchmark."""

    def of(task: Task, folder: Path | str, quant: Quant, **parts: Any) -> RunResult:
        places = {"data_dir": str(folder), "cache_dir": str(tmp_path / "cache")}
        quick = Paired(placements=2, seconds=0.02)
        return run(Experiment(task=task, quant=quant, benchmark=quick, batch_size=[1], **{**places, **parts}))

    return of


def accuracy(result: RunResult) -> float:
    assert result.report.result.quality is not None
    return result.report.result.quality.value


@pytest.mark.real
def test_png_files_of_mnist_are_trained_and_quantized(real_data: str, tmp_path: Path, ran: Run) -> None:
    folder, _ = MNIST.locate(DataRequest(data_dir=real_data))
    parts = ("train_images", "train_labels")
    paths = [folder / MNIST_RAW / f"{MNIST_NAMES[part]}.gz" for part in parts]
    images, labels = (parse_idx(gzip.decompress(path.read_bytes()), path) for path in paths)
    for index in range(2000):
        split = "train" if index < 1600 else "test"
        path = tmp_path / "digits" / split / str(int(labels[index])) / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index].numpy()).save(path)
    broken = tmp_path / "digits" / "train" / "5" / "broken.png"
    broken.write_bytes(path.read_bytes()[:60])
    task, settings = Images(channels=1), {"model": Lenet5(), "train": Train(epochs=6)}
    with pytest.raises(DataError, match=f"^{broken}: an image must be readable, this one is damaged"):
        ran(task, tmp_path / "digits", Static(), **settings)
    broken.unlink()
    made = ran(task, tmp_path / "digits", Static(), **settings)
    assert (made.report.data.train, made.report.data.test) == (1600, 400)
    assert accuracy(made) > 0.9
    assert made.report.comparison is not None and made.report.comparison.compression > 3
    mapped = ran(Images(channels=1, memory_mb=0), tmp_path / "digits", Static(), **settings)
    assert mapped.report.data.fingerprint == made.report.data.fingerprint
    assert mapped.report.result.quality == made.report.result.quality
    save(tmp_path / "stored", made.model, made.recipe)
    model = load_stored(tmp_path / "stored")
    tested = sorted((tmp_path / "digits" / "test").rglob("*.png"))
    found = model.predict(tested)
    right = sum(str(one.label) == path.parent.name for one, path in zip(found, tested, strict=True))  # type: ignore[arg-type]
    assert right == made.report.result.quality.correct  # type: ignore[union-attr]


@pytest.mark.real
def test_sst2_is_the_same_in_every_type_of_file(real_data: str, tmp_path: Path, ran: Run) -> None:
    sizes = {"vocabulary": 1000, "hidden": [32]}
    parts: dict[str, Any] = {"train": Train(epochs=1, examples=4000)}
    expected = ran(Sst2(**sizes), real_data, NoQuant(), **parts)  # type: ignore[arg-type]
    for name, split in (("train", "train"), ("dev", "test")):
        path = Path(real_data) / "sst2" / f"{name}.tsv"
        rows = sst2.parse_tsv(path.read_bytes(), path)
        for suffix in TYPES:
            write(tmp_path / suffix / f"{split}.{suffix}", rows, ("sentence", "label"))
    fingerprints = set()
    for suffix in TYPES:
        found = ran(Text(text="sentence", **sizes), tmp_path / suffix, NoQuant(), **parts)  # type: ignore[arg-type]
        assert found.recipe.vocabulary == expected.recipe.vocabulary
        assert same_weights(found.model, expected.model)
        assert accuracy(found) == accuracy(expected)
        fingerprints.add(found.report.data.fingerprint)
    assert len(fingerprints) == 1


def test_the_digits_of_scikit_learn_as_arrays(tmp_path: Path, ran: Run) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez(tmp_path / "train.npz", x=digits.images[:1400].astype(np.uint8), y=digits.target[:1400])
    np.savez(tmp_path / "test.npz", x=digits.images[1400:].astype(np.uint8), y=digits.target[1400:])
    made = ran(Arrays(scale=1 / 16), tmp_path, Static(), train=Train(epochs=20))
    assert accuracy(made) > 0.85


def test_tones_and_noises_are_told_apart(tmp_path: Path, ran: Run) -> None:
    draw, seconds = np.random.default_rng(0), np.arange(8000) / 16000
    for index in range(60):
        sounds = {
            "low": np.sin(2 * np.pi * draw.uniform(100, 200) * seconds),
            "high": np.sin(2 * np.pi * draw.uniform(1000, 2000) * seconds),
            "noise": draw.uniform(-1, 1, 8000),
        }
        for name, sound in sounds.items():
            path = tmp_path / "sounds" / "train" / name / f"{index}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wavfile.write(path, 16000, (0.5 * sound * 2**15).astype(np.int16))
    network = Wav2Vec2(channels=16, hidden=32, layers=1, heads=2, feed_forward=32)
    task, train = Audio(rate=8000, seconds=0.25), Train(epochs=20, batch_size=16, learning_rate=0.003)
    made = ran(task, tmp_path / "sounds", Dynamic(), model=network, train=train)
    assert made.report.data.origin.endswith("20 % of train held out as test")
    assert (made.report.data.train, made.report.data.test) == (144, 36)
    assert accuracy(made) > 0.9  # by guessing a third are right
