"""Image files of the user: what is read, how it is prepared, and what is refused."""

from __future__ import annotations

import logging
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quantexp import tasks
from quantexp.config import DataRequest, Images, Kind, Lenet5, NoQuant, Static, Train
from quantexp.config.experiment import Experiment
from quantexp.mission import run
from quantexp.storage.stored import load as load_stored
from quantexp.storage.stored import save
from quantexp.system.errors import CacheError, ConfigError, DataError, ModelError
from quantexp.tasks import images, listing
from quantexp.tasks.data import TaskData

Folder = Callable[..., Path]


def picture(path: Path, value: int | tuple[int, ...] = 0, size: tuple[int, int] = (10, 10), mode: str = "RGB") -> None:
    """Write an image of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def fill(folder: Path, split: str, **counts: int) -> None:
    """Write so many images of each class; number i of class c is of the grey 20 * c + i."""
    for number, (name, count) in enumerate(sorted(counts.items())):
        for index in range(count):
            grey = 20 * number + index
            picture(folder / split / name / f"{index:03}.png", (grey, grey, grey))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six training images of cats and dogs, and four of them to test."""
    fill(tmp_path / "pets", "train", cat=3, dog=3)
    fill(tmp_path / "pets", "test", cat=2, dog=2)
    return tmp_path / "pets"


def loaded(folder: Path, task: Images | None = None, kind: Kind = Kind.image, **request: Any) -> TaskData:
    settings = {
        "data_dir": str(folder),
        "cache_dir": str(folder.parent / "cache"),
        "calibration_examples": 1,
        **request,
    }
    return tasks.load(task or Images(), kind, DataRequest(**settings))


def refused(folder: Path, task: Images | None = None) -> str:
    with pytest.raises(DataError) as error:
        loaded(folder, task)
    return str(error.value)


def test_folders_are_classes_in_the_order_of_their_names(folder: Path) -> None:
    data = loaded(folder)
    assert (data.classes, data.class_names) == (2, ("cat", "dog"))
    assert data.train.labels is not None and data.test.labels is not None
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.inputs[0].shape == (3, 10, 10)


def test_folders_that_are_numbers_count_and_have_no_names(tmp_path: Path) -> None:
    for number in range(11):
        picture(tmp_path / "train" / str(number) / "a.png", (number, 0, 0))
        picture(tmp_path / "test" / str(number) / "a.png", (number, 0, 0))
    data = loaded(tmp_path, Images(mean=[0.0], std=[1.0]))
    assert (data.classes, data.class_names) == (11, ())
    (pixels,) = data.train.first(11)
    assert data.train.labels is not None
    assert (pixels[:, 0, 0, 0] * 255).round().tolist() == data.train.labels.tolist()


def test_pixels_are_normalised_by_channel(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / split / "a" / "x.png", (255, 0, 51))
        picture(tmp_path / split / "b" / "x.png", (0, 0, 0))
    (pixels,) = loaded(tmp_path, Images(mean=[0.5, 0.0, 0.1], std=[0.5, 1.0, 0.1])).train.first(1)
    assert pixels[0, :, 3, 4].tolist() == pytest.approx([1.0, 0.0, 1.0])
    (pixels,) = loaded(tmp_path).train.first(1)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx(
        [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225], rel=1e-5
    )
    (grey,) = loaded(tmp_path, Images(channels=1, mean=[0.0], std=[1.0])).train.first(1)
    luma = round((255 * 19595 + 51 * 7471 + 0x8000) / 65536 - 0.5)  # of ITU-R 601, as PIL computes it
    assert grey.shape == (1, 1, 10, 10)
    assert float(grey[0, 0, 0, 0]) * 255 == pytest.approx(luma)


def test_flat_features_are_the_image_in_the_order_channel_row_column(folder: Path) -> None:
    (image,), (flat,) = loaded(folder).train.first(3), loaded(folder, kind=Kind.features).train.first(3)
    assert torch.equal(image.flatten(1), flat)


def test_a_size_resizes_the_shorter_side_and_crops_the_center(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 20))
    wide.paste((200, 200, 200), (10, 0, 30, 20))  # the middle half is grey, the rest black
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        wide.save(tmp_path / "train" / name / "wide.png")
        picture(tmp_path / "test" / name / "x.png", size=(3, 7))
    (pixels,) = loaded(tmp_path, Images(size=10, mean=[0.0], std=[1.0])).train.first(1)
    assert pixels.shape == (1, 3, 10, 10)
    assert (pixels[0, 0, :, 1:9] * 255).round().unique().tolist() == [200.0], "the crop is the middle half"


def test_a_grey_image_of_16_bits_keeps_its_brightness(tmp_path: Path) -> None:
    (tmp_path / "deep.png").parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    found = images._decoded((tmp_path / "deep.png").read_bytes(), tmp_path / "deep.png", Images(channels=1), 4)
    assert set(found.flatten().tolist()) == {0x80}


def test_a_network_of_one_size_gets_images_of_that_size(folder: Path, tmp_path: Path) -> None:
    experiment = Experiment(task=Images(), model=Lenet5(), data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    assert experiment.task.size == 32
    assert loaded(folder, experiment.task).inputs[0].shape == (3, 32, 32)  # type: ignore[arg-type]


def test_without_a_test_split_a_seeded_share_of_train_is_held_out(tmp_path: Path) -> None:
    fill(tmp_path, "train", a=10, b=10)
    task = Images(mean=[0.0], std=[1.0])

    def greys(seed: int) -> tuple[list[int], list[int]]:
        data = loaded(tmp_path, task, validation_seed=seed)
        assert data.origin.endswith(", 20 % of train held out as test")
        train, test = (split.first(len(split))[0][:, 0, 0, 0] * 255 for split in (data.train, data.test))
        return train.round().int().tolist(), test.round().int().tolist()

    (train, test), (_, other) = greys(0), greys(1)
    assert (len(train), len(test)) == (16, 4)
    assert sorted(train + test) == [*range(10), *range(20, 30)], "each example is in one of the two"
    assert test != other
    assert greys(0) == (train, test)


def test_validation_is_held_out_of_what_remains_for_training(tmp_path: Path) -> None:
    fill(tmp_path, "train", a=10, b=10)
    data = loaded(tmp_path, validation=0.25, examples=10)
    assert data.validation is not None
    assert (len(data.test), len(data.validation), len(data.train)) == (4, 4, 10)


def test_augmentation_concerns_training_alone(folder: Path) -> None:
    data = loaded(folder, Images(flip=True, shift=2))
    batch = data.train.first(6)
    assert torch.equal(batch[0], data.calibration.inputs(torch.tensor([0]))[0]) or len(data.calibration) == 1
    assert torch.equal(data.train.first(6)[0], batch[0])
    torch.manual_seed(3)
    first = data.train.training_inputs(torch.arange(6))[0]
    torch.manual_seed(3)
    assert torch.equal(data.train.training_inputs(torch.arange(6))[0], first), "it is drawn by torch's seed"
    assert not torch.equal(first, batch[0])
    plain = loaded(folder).train
    assert torch.equal(plain.training_inputs(torch.arange(6))[0], batch[0])


def test_half_of_the_images_are_mirrored(folder: Path) -> None:
    split = loaded(folder, Images(flip=True)).train
    ramp = torch.arange(10.0).expand(1000, 3, 10, 10)
    torch.manual_seed(0)
    found = split.augmented(ramp)
    mirrored = found[:, 0, 0, 0] == 9
    assert torch.equal(found[mirrored], ramp[mirrored].flip(3))
    assert torch.equal(found[~mirrored], ramp[~mirrored])
    assert 420 < int(mirrored.sum()) < 580  # 500 ± 5 standard deviations


def test_moved_images_leave_zeros_behind() -> None:
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    found = images.moved(image.expand(3, 1, 3, 3), torch.tensor([[0, 0], [1, 0], [0, -2]]))
    assert found[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert found[1, 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert found[2, 0].tolist() == [[3, 0, 0], [6, 0, 0], [9, 0, 0]]


def test_flat_images_are_augmented_as_images_are(folder: Path) -> None:
    task = Images(shift=2)
    image, flat = loaded(folder, task).train, loaded(folder, task, Kind.features).train
    torch.manual_seed(1)
    (first,) = image.training_inputs(torch.arange(6))
    torch.manual_seed(1)
    (second,) = flat.training_inputs(torch.arange(6))
    assert torch.equal(first.flatten(1), second)


def test_other_files_are_ignored_and_named_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "train" / "notes.txt").write_text("x")
    (folder / "train" / "cat" / ".hidden.png").write_bytes(b"x")
    (folder / "test" / "cat" / "Thumbs.db").write_bytes(b"x")
    (folder / "test" / ".git").mkdir()
    with caplog.at_level(logging.INFO):
        data = loaded(folder)
    assert (len(data.train), len(data.test)) == (6, 4)
    said = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert said == [
        "data      ignored 4 files, hidden or of other types: train/cat/.hidden.png, train/notes.txt, test/.git, ..."
    ]


def test_folders_in_a_class_belong_to_it(folder: Path) -> None:
    picture(folder / "train" / "cat" / "more" / "x.PNG")
    assert len(loaded(folder).train) == 7


@pytest.mark.parametrize("limit", [2048, 0], ids=["memory", "mapped"])
def test_examples_are_the_same_in_memory_and_mapped(folder: Path, limit: int) -> None:
    task = Images(memory_mb=limit)
    found, plain = loaded(folder, task), loaded(folder)
    assert found.fingerprint == plain.fingerprint
    assert torch.equal(found.train.first(6)[0], plain.train.first(6)[0])
    assert torch.equal(found.train.take(torch.tensor([4, 1])).first(2)[0], plain.train.inputs(torch.tensor([4, 1]))[0])
    assert bool(list((folder.parent / "cache" / "data").glob("decoded-*.bin"))) == (limit == 0)


def test_a_mapped_file_is_used_again_until_an_image_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, decoded = Images(memory_mb=0, mean=[0.0], std=[1.0]), []
    original = images._decoded

    def counting(content: bytes, path: Path, *rest: Any) -> Any:
        decoded.append(path.name)
        return original(content, path, *rest)

    monkeypatch.setattr(images, "_decoded", counting)
    first = loaded(folder, task)
    assert len(decoded) == 10
    tasks._last_loaded = None
    again = loaded(folder, task)
    assert len(decoded) == 10
    assert again.fingerprint == first.fingerprint
    picture(folder / "train" / "cat" / "000.png", (255, 255, 255))
    changed = loaded(folder, task)
    assert len(decoded) == 20
    assert changed.fingerprint != first.fingerprint
    assert float(changed.train.first(1)[0].max()) == 1.0
    assert float(first.train.first(1)[0].max()) == 0.0, "who has the old file open goes on reading it"


def test_a_damaged_mapped_file_is_written_again(folder: Path) -> None:
    task = Images(memory_mb=0)
    fingerprint = loaded(folder, task).fingerprint
    (path,) = (folder.parent / "cache" / "data").glob("decoded-*.bin")
    path.write_bytes(path.read_bytes()[:-1])
    tasks._last_loaded = None
    assert loaded(folder, task).fingerprint == fingerprint


def test_a_part_of_the_examples_copies_none_of_them(folder: Path) -> None:
    split = loaded(folder).train
    part = split.take(torch.tensor([1, 0]))
    assert part.pixels is split.pixels  # type: ignore[attr-defined]
    assert part.labels is not None and len(part) == len(part.labels) == 2


def test_a_cache_folder_without_space_is_an_error_that_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("quantexp.tasks.decoded.os.fsync", full)
    with pytest.raises(CacheError, match=r"could not be written to .* \(No space left on device\); free space there"):
        loaded(folder, Images(memory_mb=0))
    assert [path.suffix for path in (folder.parent / "cache" / "data").iterdir()] == [".lock"]


def test_decoding_leaves_the_filters_of_warnings_as_they_are(folder: Path) -> None:
    before = list(warnings.filters)
    loaded(folder)
    assert list(warnings.filters) == before


@pytest.mark.slow
def test_the_command_names_a_damaged_file_without_a_traceback(
    folder: Path, workdir: Path, quantexp: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = folder / "train" / "dog" / "001.png"
    path.write_bytes(b"no image")
    ended = quantexp("task=images", f"data_dir={folder}", "quant=none")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"quantexp: {path}: an image must be readable, this one is damaged (not a PNG, JPEG, BMP or WEBP file); "
        "replace it"
    )
    (folder / "train" / "emu").mkdir()
    ended = quantexp("task=images", f"data_dir={folder}", "quant=none")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), "checked before anything starts"
    assert "train/emu: a class needs at least one training example" in ended.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "train" / "dog" / "001.png").write_bytes(b"no image"), "train/dog/001.png: an image must be"),
        (lambda f: (f / "train" / "dog" / "001.png").write_bytes(b""), "train/dog/001.png: an image must be"),
        (
            lambda f: (f / "test" / "dog" / "001.png").write_bytes((f / "test/dog/001.png").read_bytes()[:50]),
            "test/dog/001.png: an image must be",
        ),
        (
            lambda f: picture(f / "train" / "dog" / "001.png", size=(12, 10)),
            "train/dog/001.png: without task.size all images must have the same size, that of the first is 10x10 "
            "pixels, of this one 12x10; give one, such as task.size=10",
        ),
        (lambda f: picture(f / "train" / "cat" / "000.png", size=(12, 10)), "such as task.size=10"),
        (lambda f: (f / "train" / "emu").mkdir(), "train/emu: a class needs at least one training example"),
        (lambda f: picture(f / "test" / "emu" / "a.png"), "test/emu: the class 'emu' must be in train too"),
        (
            lambda f: (f / "train" / "dog").rename(f / "train" / ".dog"),
            "train: a classification needs at least two classes, found 'cat'; add examples of others",
        ),
    ],
    ids=["text", "empty", "cut off", "size", "not square", "no example", "new in test", "one class"],
)
def test_a_fault_of_the_files_is_named(folder: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    assert message in refused(folder)


def test_the_folder_and_its_layout_are_checked(tmp_path: Path) -> None:
    assert "must be a folder with train/CLASS/*.png, it is none" in refused(tmp_path / "nowhere")
    assert "must have the folder train with a folder for each class, there is none" in refused(tmp_path)
    (tmp_path / "train").mkdir()
    assert "must have folders of classes with images in train" in refused(tmp_path)
    fill(tmp_path, "train", a=5, b=5)
    (tmp_path / "test").mkdir()
    assert "remove the folder to hold out a share of train (task.test_share)" in refused(tmp_path)
    with pytest.raises(DataError, match=r"give their folder, with train/CLASS/\*\.png, as data_dir=FOLDER"):
        tasks.load(Images(), Kind.image, DataRequest())


def test_what_needs_no_decoding_is_checked_before_anything_starts(folder: Path) -> None:
    request = DataRequest(data_dir=str(folder))
    tasks.sources_of(Images()).check(request)
    (folder / "train" / "emu").mkdir()
    with pytest.raises(DataError, match="a class needs at least one training example"):
        tasks.sources_of(Images()).check(request)


@pytest.mark.parametrize("linked", ["image", "class", "split"])
def test_links_that_lead_out_of_the_folder_are_refused(folder: Path, tmp_path: Path, linked: str) -> None:
    fill(tmp_path / "outside", "train", cat=2, dog=2)
    place, target = {
        "image": (folder / "train" / "cat" / "more.png", tmp_path / "outside" / "train" / "cat" / "000.png"),
        "class": (folder / "train" / "emu", tmp_path / "outside" / "train" / "cat"),
        "split": (folder / "test", tmp_path / "outside" / "train"),
    }[linked]
    if linked == "split":
        place.rename(tmp_path / "away")
    place.symlink_to(target)
    message = refused(folder)
    assert f"{place}: a link must lead to a place in the folder of the data set" in message
    assert "copy the files into the folder" in message


def test_links_in_the_folder_are_followed_but_not_in_circles(folder: Path) -> None:
    (folder / "train" / "cat" / "again.png").symlink_to(folder / "train" / "cat" / "000.png")
    assert len(loaded(folder).train) == 7
    (folder / "train" / "cat" / "loop").symlink_to(folder / "train" / "cat")
    assert "this link leads to a folder that contains it" in refused(folder)


def test_very_unequal_classes_are_a_finding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "train", a=22, b=2)
    fill(tmp_path, "test", a=2)
    data = loaded(tmp_path)
    assert [finding.text for finding in data.findings] == [
        "the classes are unequal: train has 22 examples of a and 2 of b; accuracy says little about the rare ones",
        "92 % of train are of class a; a network that always answers it has a high accuracy",
        "all test examples are of class a; accuracy is that of one class",
    ]
    assert [record.getMessage() for record in caplog.records] == [finding.text for finding in data.findings]


def test_equal_classes_are_no_finding(folder: Path) -> None:
    assert loaded(folder).findings == ()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"channels": 2}, "task.channels must be 1 or 3, got 2"),
        ({"mean": [0.1, 0.2]}, "task.mean must have one value, or one for each of 3 channels, got [0.1, 0.2]"),
        ({"std": [0.0]}, "task.std must be above 0, got 0.0"),
        ({"size": 4, "shift": 4}, "task.shift must be less than task.size=4, got 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        Images(**settings)
    assert error.value.faults == (fault,)


def test_random_images_need_a_size() -> None:
    with pytest.raises(ConfigError, match=r"data=synthetic has no images that give a size; give task\.size"):
        Experiment(task=Images(), data="synthetic")  # type: ignore[arg-type]
    assert Experiment(task=Images(), model=Lenet5(), data="synthetic").task.size == 32  # type: ignore[arg-type]


def test_a_stored_network_predicts_from_files_images_and_arrays(
    sample: Callable[..., Experiment], tmp_path: Path
) -> None:
    folder = tmp_path / "dark_and_bright"
    for index in range(40):
        for name, base in (("bright", 200), ("dark", 0)):
            picture(folder / ("test" if index % 4 == 0 else "train") / name / f"{index}.png", (base + index,) * 3)
    made = run(
        sample(
            task=Images(channels=1),
            quant=Static(calibration_examples=20),
            train=Train(epochs=20),
            data="full",
            data_dir=str(folder),
            cache_dir=str(tmp_path / "cache"),
        )
    )
    assert made.report.result.quality is not None
    assert made.report.result.quality.value == 1.0
    save(tmp_path / "stored", made.model, made.recipe)
    model = load_stored(tmp_path / "stored")
    path = folder / "test" / "bright" / "0.png"
    (one, other) = model.predict([path, str(folder / "test" / "dark" / "0.png")])  # type: ignore[misc]
    assert (one.name, other.name) == ("bright", "dark")
    assert (
        model.predict(str(path))
        == model.predict(Image.open(path))
        == model.predict(np.full((10, 10, 3), 200, np.uint8))
    )
    assert len(model.predict(np.zeros((3, 10, 10, 3), np.uint8))) == 3  # type: ignore[arg-type]
    for raw, message in (
        (str(tmp_path / "nowhere.png"), "nowhere.png: cannot be read"),
        (np.zeros((12, 12, 3), np.uint8), "that of the first is 10x10 pixels, of this one 12x12"),
        (np.zeros((10, 10, 3)), "got a ndarray of float64"),
        ([], "got an empty one"),
        (3, "got a int of int64"),
    ):
        with pytest.raises(ModelError, match=message):
            model.predict(raw)


def test_findings_of_the_data_stand_in_the_report(sample: Callable[..., Experiment], tmp_path: Path) -> None:
    fill(tmp_path, "train", a=22, b=2)
    fill(tmp_path, "test", a=2)
    report = run(
        sample(
            task=Images(), quant=NoQuant(), train=Train(epochs=1), data="full", data_dir=str(tmp_path), batch_size=[1]
        )
    ).report
    assert [finding.check for finding in report.findings] == ["data"] * 3


def test_hidden_means_that_the_name_begins_with_a_dot() -> None:
    assert [listing._hidden(name) for name in (".a", "a.", "_a")] == [True, False, False]
