"""NumPy arrays of the user: what is read for each kind of input, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quantexp import tasks
from quantexp.config import (
    Arrays,
    DataRequest,
    DataSource,
    Dynamic,
    Experiment,
    Kind,
    Lenet5,
    Lstm,
    Mlp,
    NoQuant,
    Train,
    Wav2Vec2,
)
from quantexp.mission import run
from quantexp.storage.stored import load as load_stored
from quantexp.storage.stored import save
from quantexp.system.errors import ConfigError, DataError, ModelError
from quantexp.tasks import npz
from quantexp.tasks.data import TaskData


def write(folder: Path, x: NDArray[Any], y: Any, split: str = "train", **others: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{split}.npz", x=x, y=np.asarray(y), **others)


def counting(*shape: int, dtype: str = "float32") -> NDArray[Any]:
    """Four examples of that shape with the values 0, 1, 2, ..."""
    return np.arange(4 * int(np.prod(shape))).reshape(4, *shape).astype(dtype)


def both(folder: Path, x: NDArray[Any], y: Any = (0, 1, 0, 1)) -> Path:
    for split in ("train", "test"):
        write(folder, x, y, split)
    return folder


def loaded(
    folder: Path, kind: Kind = Kind.features, request: dict[str, Any] | None = None, **settings: Any
) -> TaskData:
    places = {"data_dir": str(folder), "cache_dir": str(folder / "cache"), "calibration_examples": 1}
    return tasks.load(Arrays(**settings), kind, DataRequest(**{**places, **(request or {})}))


@pytest.mark.parametrize(
    ("kind", "given", "taken"),
    [
        (Kind.features, (6,), (6,)),
        (Kind.features, (2, 3), (6,)),
        (Kind.image, (2, 3), (1, 2, 3)),
        (Kind.image, (3, 2, 2), (3, 2, 2)),
        (Kind.sequence, (5, 2), (5, 2)),
        (Kind.waveform, (7,), (7,)),
    ],
)
def test_each_kind_of_input_has_its_shape(
    tmp_path: Path, kind: Kind, given: tuple[int, ...], taken: tuple[int, ...]
) -> None:
    x = counting(*given)
    data = loaded(both(tmp_path, x), kind)
    assert data.inputs[0].shape == taken
    (batch,) = data.train.inputs(torch.tensor([2, 0]))
    assert batch.dtype is torch.float32
    assert batch.flatten().tolist() == x[[2, 0]].flatten().tolist()
    assert batch.shape == (2, *taken)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Kind.image, (4,), "(height, width) or (channels, height, width) for a network that takes image, got (4,)"),
        (Kind.sequence, (4,), "(length, values) for a network that takes sequence, got (4,)"),
        (Kind.waveform, (4, 2), "(samples,) for a network that takes waveform, got (4, 2)"),
    ],
)
def test_a_shape_that_does_not_fit_the_kind_names_both(
    tmp_path: Path, kind: Kind, given: tuple[int, ...], message: str
) -> None:
    with pytest.raises(DataError) as error:
        loaded(both(tmp_path, counting(*given)), kind)
    assert str(error.value) == (
        f"{tmp_path / 'train.npz'}: x must have examples of the shape {message}; reshape it, or choose another network"
    )
    with pytest.raises(ConfigError) as fault:
        tasks.load(Arrays(shape=list(given)), kind, DataRequest(DataSource.synthetic))
    assert str(fault.value).startswith(f"task.shape must have examples of the shape {message}")


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "int64", "float16", "float32", "float64", "bool", ">f4"]
)
def test_values_stay_in_their_type_until_a_batch_is_made(tmp_path: Path, dtype: str) -> None:
    x = counting(3, dtype=dtype)
    data = loaded(both(tmp_path, x), scale=0.5)
    assert data.train.values.dtype == np.dtype(dtype).newbyteorder("=")  # type: ignore[attr-defined]
    assert data.train.first(4)[0].tolist() == (x.astype("float32") / 2).tolist()


def test_arrays_in_the_order_of_fortran_are_the_same(tmp_path: Path) -> None:
    x = counting(3, 2)
    plain = loaded(both(tmp_path / "c", x))
    other = loaded(both(tmp_path / "f", np.asfortranarray(x)))
    assert torch.equal(plain.train.first(4)[0], other.train.first(4)[0])
    assert plain.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("y", "labels", "names"),
    [
        ([0, 1, 2, 1], [0, 1, 2, 1], ()),
        ([5, -1, 5, 7], [1, 0, 1, 2], ("-1", "5", "7")),
        (["b", "a", "b", "c"], [1, 0, 1, 2], ("a", "b", "c")),
        ([b"b", b"a", b"b", b"a"], [1, 0, 1, 0], ("a", "b")),
        ([True, False, False, True], [1, 0, 0, 1], ("False", "True")),
    ],
    ids=["numbers", "any integers", "names", "bytes", "bools"],
)
def test_labels_are_numbers_or_names(tmp_path: Path, y: Any, labels: list[int], names: tuple[str, ...]) -> None:
    data = loaded(both(tmp_path, counting(2), y))
    assert data.train.labels is not None and data.train.labels.tolist() == labels
    assert (data.classes, data.class_names) == (len(set(labels)), names)


def test_mapped_arrays_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "PIECE", 30)  # bytes, so that there are several pieces
    x = counting(3, 2)
    both(tmp_path, x)
    mapped, plain = loaded(tmp_path, memory_mb=0), loaded(tmp_path)
    assert mapped.fingerprint == plain.fingerprint
    assert isinstance(mapped.train.values, np.memmap)  # type: ignore[attr-defined]
    assert mapped.train.first(4)[0].tolist() == plain.train.first(4)[0].tolist() == x.reshape(4, 6).tolist()
    again = loaded(tmp_path, memory_mb=0, request={"validation": 0.5})
    assert (again.fingerprint, len(again.train)) == (plain.fingerprint, 2)


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="Linux tells what is resident of a mapped file")
def test_what_was_read_of_mapped_arrays_does_not_stay_in_the_memory_of_the_process(tmp_path: Path) -> None:
    def resident() -> int:
        lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines())
        found = (next(line for line in lines if line.startswith("Rss:")) for line in lines if "decoded-" in line)
        return sum(int(line.split()[1]) for line in found)

    x = np.arange(2 * 2**20, dtype="uint8").reshape(1024, 2048)  # 2 MiB, in train and in test
    both(tmp_path, x, [0, 1] * 512)
    data = loaded(tmp_path, memory_mb=0)
    for split in (data.train, data.test):
        assert float(split.values[:, ::64].sum()) > 0  # type: ignore[attr-defined]  # past the split
    assert resident() > 2048
    for batch, rows in data.test.batches(64):
        assert batch[0].tolist() == x[rows].tolist()
        assert resident() == 0


def test_the_fingerprint_changes_with_values_and_labels(tmp_path: Path) -> None:
    x = counting(2)
    fingerprints = {
        loaded(both(tmp_path / name, values, y)).fingerprint
        for name, values, y in (("a", x, (0, 1, 0, 1)), ("b", x + 1, (0, 1, 0, 1)), ("c", x, (0, 1, 1, 1)))
    }
    assert len(fingerprints) == 3


def test_without_a_test_file_a_share_of_train_is_held_out(tmp_path: Path) -> None:
    write(tmp_path, np.arange(20)[:, None], [0, 1] * 10)
    data = loaded(tmp_path)
    train, test = (split.first(len(split))[0].flatten().tolist() for split in (data.train, data.test))
    assert (len(train), len(test)) == (16, 4)
    assert sorted(train + test) == list(range(20))


def test_channels_that_seem_to_be_last_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded(both(tmp_path, counting(8, 8, 3)), Kind.image)
    assert [record.getMessage() for record in caplog.records] == [
        "x has images of 8 channels, 8x3 pixels; if channels are last, transpose x"
    ]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            np.zeros((4, 2)),
            [0, 1, 0],
            "train.npz: y must have a label for each of the 4 examples of x, shape (4,), got (3,)",
        ),
        (np.zeros((4, 2)), [[0], [1], [0], [1]], "got (4, 1)"),
        (np.array([1, "a", None, 2.0], object), [0, 1, 0, 1], "x must be an array of real numbers, got Python objects"),
        (np.zeros((4, 2), complex), [0, 1, 0, 1], "x must be an array of real numbers, got complex128"),
        (np.zeros((4, 2)), [0.0, 1.0, 0.0, 1.5], "y must be an array of integers or strings, got float64"),
        (np.zeros(4), [0, 1, 0, 1], "x must have the shape (examples, ...) with at least one value for each, got (4,)"),
        (np.zeros((0, 2)), np.zeros(0, int), "x must have the shape (examples, ...) with at least one value for each"),
    ],
    ids=["short y", "y of two dimensions", "objects", "complex", "float labels", "no values", "no examples"],
)
def test_arrays_that_do_not_fit_are_refused_before_anything_starts(
    tmp_path: Path, x: NDArray[Any], y: Any, message: str
) -> None:
    write(tmp_path, x, y)
    with pytest.raises(DataError) as error:
        tasks.sources_of(Arrays()).check(DataRequest(data_dir=str(tmp_path)))
    assert message in str(error.value)


def test_faults_of_the_files_are_named(tmp_path: Path) -> None:
    def refused() -> str:
        with pytest.raises(DataError) as error:
            loaded(tmp_path)
        return str(error.value)

    assert "must have train.npz, it has no files; write it with numpy.savez(" in refused()
    np.savez(tmp_path / "train.npz", images=np.zeros(3), y=np.zeros(3))
    assert "train.npz: must have the arrays x and y, it has images, y" in refused()
    (tmp_path / "train.npz").write_bytes(b"no zip")
    assert "train.npz: an .npz file must be readable, this one is damaged (File is not a zip file)" in refused()
    x = counting(2)
    x[2, 1] = np.nan
    write(tmp_path, x, [0, 1, 0, 1])
    assert "train.npz: x must have finite values, example 2 has others" in refused()
    both(tmp_path, counting(2))
    write(tmp_path, counting(3), [0, 1, 0, 1], "test")
    assert "test.npz: x must have examples of the shape (2,) as in train.npz, got (3,)" in refused()
    write(tmp_path, counting(2), [0, 1, 0, 2], "test")
    assert "test.npz: the class '2' must be in train too, whose classes are '0', '1'" in refused()
    (tmp_path / "test.npz").unlink()
    (tmp_path / "test.npz").symlink_to(__file__)
    assert "test.npz: a link must lead to a place in the folder of the data set" in refused()


def test_a_file_that_is_cut_off_or_changed_is_named(tmp_path: Path) -> None:
    both(tmp_path, counting(50))
    content = bytearray((tmp_path / "train.npz").read_bytes())
    content[300] ^= 0xFF  # of x: the checksum of the archive finds it
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.npz: an \.npz file must be readable, this one is damaged"):
        loaded(tmp_path)


@pytest.mark.parametrize("kind", [Kind.features, Kind.image])
def test_a_stored_network_predicts_from_arrays(sample: Callable[..., Experiment], tmp_path: Path, kind: Kind) -> None:
    draw = np.random.default_rng(0)
    labels = np.array(["dark", "light"])[np.arange(64) % 2]
    x = (draw.integers(0, 60, (64, 32, 32)) + 150 * (labels == "light")[:, None, None]).astype(np.uint8)
    both(tmp_path / "data", x, labels)
    network = Mlp() if kind is Kind.features else Lenet5()
    task = Arrays(scale=1 / 255)
    parts: dict[str, Any] = {"train": Train(epochs=10, batch_size=8), "quant": Dynamic(), "batch_size": [1]}
    made = run(sample(task=task, model=network, data="full", data_dir=str(tmp_path / "data"), **parts))
    assert made.report.result.quality is not None and made.report.result.quality.value == 1.0
    save(tmp_path / "stored", made.model, made.recipe)
    model = load_stored(tmp_path / "stored")
    assert model.predict(x[1]).name == "light"  # type: ignore[union-attr]
    assert [found.name for found in model.predict(x[:3])] == ["dark", "light", "dark"]  # type: ignore[union-attr]
    assert len(model.predict([x[0].tolist()])) == 1  # type: ignore[arg-type]
    for raw, message in (
        (np.zeros((5, 5)), r"got shape \(5, 5\); reshape it"),
        (np.zeros((0, 32, 32)), r"got shape \(0, 32, 32\)"),
        ("photo.png", "got a str of <U9"),
        ([[1], [1, 2]], "got a list that is not an array"),
    ):
        with pytest.raises(ModelError, match=message):
            model.predict(raw)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Mlp(), [4, 4]),
        (Lenet5(), [3, 32, 32]),
        (Lstm(embedding=8, hidden=8), [6, 4]),
        (Wav2Vec2(channels=8, hidden=16, layers=1, heads=2, feed_forward=16), [800]),
    ],
    ids=["mlp", "lenet5", "lstm", "wav2vec2"],
)
def test_random_arrays_need_a_shape_alone(sample: Callable[..., Experiment], model: Any, shape: list[int]) -> None:
    parts = {"model": model, "data": DataSource.synthetic, "quant": NoQuant(), "batch_size": [1]}
    with pytest.raises(ConfigError, match=r"data=synthetic has no arrays that give a shape; give task\.shape"):
        sample(task=Arrays(), **parts)
    assert run(sample(task=Arrays(shape=shape, classes=3), **parts)).report.data.source == "synthetic"
