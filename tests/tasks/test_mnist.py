"""MNIST: files to images that are normalised in batches, the small sample, and the examples drawn for calibration."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from quantexp.config import WEIGHTS, CalibrationSplit, DataRequest, DataSource, Kind, Mnist
from quantexp.system.errors import ConfigError, DataError, ModelError
from quantexp.tasks import mnist
from quantexp.tasks.data import Images, Split, TaskData
from quantexp.tasks.preparation import Preparation

TRAIN, TEST = 40, 12  # images in the hand-made data set
HERE = Path("digits.idx")  # named in errors, never read


def idx(*shape: int, values: bytes) -> bytes:
    """Return an IDX file of unsigned bytes."""
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values


def numbered(count: int, first: int) -> bytes:
    """Return images of which each has one grey value of its own, counted from `first`."""
    return idx(count, 28, 28, values=b"".join(bytes([first + i]) * 784 for i in range(count)))


def grey(split: Split) -> list[int]:
    """Return the grey value of each of these images."""
    return greys(every_input(split))


def greys(values: Tensor) -> list[int]:
    """Return the grey value of each of these images, normalised and flat."""
    assert torch.equal(values.amin(1), values.amax(1))
    return (values[:, 0] * 0.3081 + 0.1307).mul(255).round().int().tolist()


def every_input(split: Split) -> Tensor:
    (values,) = split.inputs(torch.arange(len(split)))
    return values


def prepare(images: Tensor, side: int) -> Tensor:
    """Return uint8 images as a network of flat features takes them."""
    return every_input(Images(None, mnist.crop(images, side), mnist.MEAN, mnist.STD, flat=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hand-made data: 40 images of greys 0 to 39 to train on, 12 of greys 100 to 111 to test."""
    raw = tmp_path / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    contents = {
        "train-images-idx3-ubyte": numbered(TRAIN, 0),
        "train-labels-idx1-ubyte": idx(TRAIN, values=bytes(i % 10 for i in range(TRAIN))),
        "t10k-images-idx3-ubyte": numbered(TEST, 100),
        "t10k-labels-idx1-ubyte": idx(TEST, values=bytes(9 - i % 10 for i in range(TEST))),
    }
    for name, content in contents.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(content))
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[..., TaskData]:
    """Load the hand-made data; keywords go into the request."""

    def load_it(crop: int = 20, kind: Kind = Kind.features, **request: object) -> TaskData:
        settings = {"data_dir": str(folder), "calibration_examples": 10, **request}
        return mnist.load(Mnist(crop=crop), kind, DataRequest(**settings))  # type: ignore[arg-type]

    return load_it


def load_sample(crop: int = 20, kind: Kind = Kind.features) -> TaskData:
    return mnist.load(Mnist(crop=crop), kind, DataRequest(DataSource.sample))


# --- files -----------------------------------------------------------------------------------------


def test_a_file_of_images_is_read_row_by_row() -> None:
    images = mnist.parse_idx(idx(2, 2, 3, values=bytes(range(244, 256))), HERE)
    assert images.dtype == torch.uint8
    assert images.tolist() == [[[244, 245, 246], [247, 248, 249]], [[250, 251, 252], [253, 254, 255]]]


def test_a_file_of_labels_is_read_in_order() -> None:
    assert mnist.parse_idx(idx(4, values=bytes([7, 0, 9, 1])), HERE).tolist() == [7, 0, 9, 1]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not an IDX file of unsigned bytes: it starts with nothing"),
        (b"\0\0\x08", "not an IDX file of unsigned bytes: it starts with 00 00 08,"),
        (b"\0\0\x0d\x01" + bytes(8), "not an IDX file of unsigned bytes: it starts with 00 00 0d 01,"),
        (idx(1, 1, values=b"\0"), "not an IDX file of unsigned bytes: it starts with 00 00 08 02,"),
        (b"<html>not found</html>", "not an IDX file of unsigned bytes: it starts with 3c 68 74 6d,"),
        (idx(2, 28, 28, values=b"")[:10], "truncated in its header, 10 bytes"),
        (idx(1000, values=bytes(999)), "must have 1,008 bytes according to its header, has 1,007"),
        (idx(3, 2, 2, values=bytes(13)), "must have 28 bytes according to its header, has 29"),
    ],
    ids=["empty", "cut in its magic", "of floats", "of two dimensions", "a web page", "no shape", "short", "long"],
)
def test_a_damaged_file_is_refused_with_its_name_and_fault(content: bytes, fault: str) -> None:
    with pytest.raises(DataError) as error:
        mnist.parse_idx(content, HERE)
    assert str(error.value).startswith(f"digits.idx: {fault}")
    assert "download it again" in str(error.value)


@pytest.mark.parametrize("shape", [(2**31, 2**31, 4), (2**32 - 1, 2**32 - 1, 1)])
def test_a_header_that_promises_more_than_any_file_holds_is_taken_at_its_word(shape: tuple[int, ...]) -> None:
    promised = 16 + shape[0] * shape[1] * shape[2]
    with pytest.raises(DataError, match=f"must have {promised:,} bytes according to its header, has 16"):
        mnist.parse_idx(idx(*shape, values=b""), HERE)


def damaged(folder: Path, name: str, content: bytes) -> Path:
    """Overwrite one file of the data set and return its path."""
    path = folder / "mnist" / "MNIST" / "raw" / f"{name}.gz"
    assert path.exists()
    path.write_bytes(content)
    return path


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        (IMAGES, gzip.compress(numbered(TRAIN, 0))[:-20], "not a complete gzip file"),
        (IMAGES, gzip.compress(numbered(TRAIN, 0))[:15], "not a complete gzip file"),
        (IMAGES, gzip.compress(b"")[:10] + b"\xff" * 20, "not a complete gzip file"),
        (IMAGES, numbered(TRAIN, 0), "not a complete gzip file"),
        (IMAGES, gzip.compress(numbered(TRAIN, 0)) + b"more", "not a complete gzip file"),
        (IMAGES, b"", "not an IDX file of unsigned bytes: it starts with nothing"),
        (IMAGES, gzip.compress(b"\1" + numbered(TRAIN, 0)), "not an IDX file of unsigned bytes: it starts with 01 00"),
        (IMAGES, gzip.compress(numbered(TRAIN, 0)[:-1]), "must have 31,376 bytes according to its header, has 31,375"),
        (IMAGES, gzip.compress(idx(TRAIN, 27, 28, values=bytes(TRAIN * 756))), r"found shape \(40, 27, 28\)"),
        (IMAGES, gzip.compress(idx(TRAIN, values=bytes(TRAIN))), r"found shape \(40,\)"),
        (LABELS, gzip.compress(idx(TRAIN, values=bytes([*range(10)] * 3 + [10] * 10))), "0 to 9, found 10"),
        (LABELS, gzip.compress(idx(TRAIN - 1, values=bytes(TRAIN - 1))), f"39 labels for 40 images in {IMAGES}.gz"),
        (LABELS, gzip.compress(idx(1, 5, 8, values=bytes(TRAIN))), "40 labels for 40 images"),
        ("t10k-labels-idx1-ubyte", gzip.compress(idx(TEST, values=b"\xff" * TEST)), "0 to 9, found 255"),
    ],
    ids=[
        "gzip without its end",
        "gzip of a few bytes",
        "gzip of what nothing packs to",
        "not packed",
        "more after the gzip",
        "empty",
        "wrong magic",
        "one byte short",
        "27 rows",
        "images are labels",
        "label 10",
        "a label lacks",
        "labels of three dimensions",
        "label 255 to test",
    ],
)
def test_damaged_data_are_refused_with_the_path_of_the_file(
    load: Callable[..., TaskData], folder: Path, name: str, content: bytes, fault: str
) -> None:
    path = damaged(folder, name, content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: .*{fault}"):
        load()


def test_a_file_without_images_is_refused(load: Callable[..., TaskData], folder: Path) -> None:
    path = damaged(folder, IMAGES, gzip.compress(idx(0, 28, 28, values=b"")))
    damaged(folder, LABELS, gzip.compress(idx(0, values=b"")))
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: contains no images"):
        load()


def test_files_that_lie_there_unpacked_are_read_the_same(load: Callable[..., TaskData], folder: Path) -> None:
    packed = load()
    for path in (folder / "mnist" / "MNIST" / "raw").glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = load()
    assert torch.equal(every_input(plain.train), every_input(packed.train))
    assert plain.fingerprint == packed.fingerprint  # it stands for the examples, not for their packing


def test_one_changed_label_changes_the_fingerprint(load: Callable[..., TaskData], folder: Path) -> None:
    before = load().fingerprint
    damaged(folder, LABELS, gzip.compress(idx(TRAIN, values=bytes([5, *(i % 10 for i in range(1, TRAIN))]))))
    assert load().fingerprint != before


# --- preparation -----------------------------------------------------------------------------------


def test_images_and_labels_arrive_in_the_order_of_the_files(load: Callable[..., TaskData], folder: Path) -> None:
    data = load()
    assert grey(data.train) == list(range(40))
    assert grey(data.test) == list(range(100, 112))
    assert data.train.labels.tolist() == [i % 10 for i in range(40)]
    assert data.test.labels.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9, 8]
    assert data.train.labels.dtype == torch.int64
    assert ([spec.shape for spec in data.inputs], data.classes) == ([(400,)], 10)
    assert data.origin == f"data_dir {folder}"
    assert [tensor.shape for tensor in data.example] == [(2, 400)]


def test_a_pixel_is_scaled_to_one_and_normalised_with_mean_and_deviation() -> None:
    images = torch.zeros(1, 28, 28, dtype=torch.uint8)
    images[0, 4, 4], images[0, 4, 5], images[0, 5, 4] = 255, 51, 102  # crop 20 begins at row and column 4
    prepared = prepare(images, 20)
    assert prepared.shape == (1, 400)
    black = -0.1307 / 0.3081
    expected = torch.full((1, 400), black)
    expected[0, 0] = (1.0 - 0.1307) / 0.3081
    expected[0, 1] = (0.2 - 0.1307) / 0.3081  # the next column
    expected[0, 20] = (0.4 - 0.1307) / 0.3081  # the next row
    torch.testing.assert_close(prepared, expected)


@pytest.mark.parametrize("crop", [4, 5, 7, 19, 20, 21, 27, 28, 29, 31, 32])
def test_preparation_equals_the_transforms_of_torchvision(crop: int) -> None:
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(crop))
    reference = transforms.Compose(
        [transforms.CenterCrop(crop), transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    expected = torch.stack([reference(Image.fromarray(image.numpy())).flatten() for image in images])
    assert torch.equal(prepare(images, crop), expected)


def test_a_crop_of_32_sets_the_image_in_a_black_margin_of_two_pixels() -> None:
    images = torch.full((2, 28, 28), 255, dtype=torch.uint8)
    prepared = prepare(images, 32).view(2, 32, 32)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[2:30, 2:30] = True
    torch.testing.assert_close(prepared[:, inside], torch.full((2, 784), (1 - 0.1307) / 0.3081))
    torch.testing.assert_close(prepared[:, ~inside], torch.full((2, 1024 - 784), -0.1307 / 0.3081))


@pytest.mark.parametrize("side", [33, 64])
def test_images_beyond_the_padded_ones_are_the_digit_enlarged(side: int) -> None:
    (values,), _ = mnist.encode(Mnist(crop=side), Kind.image, PIXELS, Preparation())
    pixels = PIXELS[:, None].float()
    expected = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
    torch.testing.assert_close(values, (expected / 255 - 0.1307) / 0.3081)


def test_an_enlarged_image_of_one_grey_has_that_grey_everywhere(load: Callable[..., TaskData]) -> None:
    data = load(crop=96, kind=Kind.image)
    assert data.inputs[0].shape == (1, 96, 96)
    assert greys(every_input(data.test).flatten(1)) == list(range(100, 112))
    assert isinstance(data.test, Images)
    assert data.test.pixels.shape == (TEST, 1, 28, 28)  # enlarged batch by batch, not in memory
    assert data.test.pixels.dtype is torch.uint8


@pytest.mark.parametrize("side", [20, 32, 40])
def test_three_channels_repeat_the_grey(side: int) -> None:
    (grey_values,), _ = mnist.encode(Mnist(crop=side), Kind.image, PIXELS, Preparation())
    (values,), _ = mnist.encode(Mnist(crop=side, channels=3), Kind.image, PIXELS, Preparation())
    assert mnist.inputs(Mnist(crop=side, channels=3), Kind.image)[0].shape == (3, side, side) == values.shape[1:]
    for channel in range(3):
        assert torch.equal(values[:, channel], grey_values[:, 0])
    (flat,), _ = mnist.encode(Mnist(crop=side, channels=3), Kind.features, PIXELS, Preparation())
    assert torch.equal(flat, values.flatten(1))


def test_examples_that_are_taken_are_enlarged_too(load: Callable[..., TaskData]) -> None:
    data = load(crop=40, kind=Kind.image)
    rows = torch.tensor([3, 1])
    (taken,), (expected,) = data.test.take(rows).first(2), data.test.inputs(rows)
    assert torch.equal(taken, expected)


def test_one_channel_is_no_part_of_the_settings_that_keys_are_made_of() -> None:
    assert Mnist(crop=20, channels=1).settings(WEIGHTS) == {"hidden": [1024, 1024], "crop": 20}
    assert Mnist(crop=20, channels=3).settings(WEIGHTS)["channels"] == 3


def test_preparation_leaves_the_images_as_they_were() -> None:
    images = torch.full((1, 28, 28), 7, dtype=torch.uint8)
    prepare(images, 28)
    assert torch.equal(images, torch.full((1, 28, 28), 7, dtype=torch.uint8))


# --- raw inputs ------------------------------------------------------------------------------------


PIXELS = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
RAW: dict[str, object] = {
    "a tensor": PIXELS,
    "an array": PIXELS.numpy(),
    "nested lists": PIXELS.tolist(),
    "a list of tensors": list(PIXELS),
    "a list of images": [Image.fromarray(image.numpy()) for image in PIXELS],
    "whole numbers as floats": PIXELS.double().requires_grad_(),
    "large integers": PIXELS.numpy().astype(np.uint64),
    "an array seen from behind": PIXELS.numpy()[::-1, ::-1, ::-1][::-1, ::-1, ::-1],
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
def test_images_of_any_kind_are_prepared_as_the_data_are(raw: object) -> None:
    batch, single = mnist.encode(Mnist(crop=20), Kind.features, raw, Preparation())
    assert not single
    assert len(batch) == 1
    assert torch.equal(batch[0], prepare(PIXELS, 20))


def test_one_image_gives_one_input() -> None:
    (values,), single = mnist.encode(Mnist(crop=5), Kind.features, PIXELS[1], Preparation())
    assert single
    assert torch.equal(values, prepare(PIXELS, 5)[1:2])
    (values,), single = mnist.encode(Mnist(crop=5), Kind.features, PIXELS[:1], Preparation())
    assert not single
    assert values.shape == (1, 25)


def test_images_are_encoded_as_images_for_a_network_that_takes_images() -> None:
    (values,), _ = mnist.encode(Mnist(crop=32), Kind.image, PIXELS, Preparation())
    assert torch.equal(values, prepare(PIXELS, 32).view(3, 1, 32, 32))


REFUSED: dict[str, tuple[object, str]] = {
    "too large": (np.full((28, 28), 256), "got the value 256; scale and round"),
    "negative": (np.full((28, 28), -1), "got the value -1; scale"),
    "between whole numbers": (np.full((1, 28, 28), 0.5), "got the value 0.5; scale and round your values to 0 .. 255"),
    "not a number": (np.full((28, 28), np.nan), "got the value nan"),
    "infinite": (torch.full((28, 28), float("inf")), "got the value inf"),
    "truth values": (np.zeros((28, 28), dtype=bool), "ndarray of bool"),
    "too small": (np.zeros((20, 20)), r"got shape \(20, 20\); reshape it to \(28, 28\)"),
    "flat": (np.zeros(784), r"got shape \(784,\)"),
    "in colour": (np.zeros((28, 28, 3)), r"got shape \(28, 28, 3\)"),
    "with a channel": (np.zeros((1, 1, 28, 28)), r"got shape \(1, 1, 28, 28\)"),
    "none": ([], r"got shape \(0,\)"),
    "none of the right shape": (np.zeros((0, 28, 28)), r"got shape \(0, 28, 28\)"),
    "bytes": (bytes(784), "got a bytes of"),
    "text": ("digit.png", "got a str of"),
    "nothing": (None, "got a NoneType of object"),
    "of unequal rows": ([[1, 2], [3]], "got a list that is not an array"),
    "sparse": (torch.zeros(28, 28).to_sparse(), "got a Tensor that is not an array"),
}


@pytest.mark.parametrize(("raw", "told"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_what_is_no_image_is_refused(raw: object, told: str) -> None:
    with pytest.raises(ModelError, match=rf"^raw inputs of mnist must be an image of 28x28 integers .*{told}"):
        mnist.encode(Mnist(crop=20), Kind.features, raw, Preparation())


def test_the_crop_decides_the_number_of_features(load: Callable[..., TaskData]) -> None:
    data = load(crop=5)
    assert data.inputs[0].values == 25
    assert data.example[0].shape == (2, 25)


# --- batches ---------------------------------------------------------------------------------------


def test_batches_hold_every_example_once_in_the_order_asked_for(load: Callable[..., TaskData]) -> None:
    train = load().train
    batches = list(train.batches(16))
    assert [len(rows) for _, rows in batches] == [16, 16, 8]
    assert greys(torch.cat([values for (values,), _ in batches])) == list(range(40))

    order = torch.tensor([39, 0, 7])
    [((values,), rows)] = train.batches(16, order)
    assert greys(values) == [39, 0, 7]
    assert train.labels[rows].tolist() == [9, 0, 7]


def test_the_first_examples_begin_again_where_they_run_out(load: Callable[..., TaskData]) -> None:
    (values,) = load().train.first(5, skipping=37)
    assert greys(values) == [37, 38, 39, 0, 1]


# --- in memory -------------------------------------------------------------------------------------


def held(split: Split) -> Tensor:
    assert isinstance(split, Images)
    return split.pixels


@pytest.mark.parametrize("kind", [Kind.features, Kind.image])
def test_images_stay_bytes_in_memory_until_a_batch_is_made(load: Callable[..., TaskData], kind: Kind) -> None:
    data = load(kind=kind, validation=0.1)
    assert data.validation is not None
    for split, count in ((data.train, 36), (data.validation, 4), (data.calibration, 10), (data.test, TEST)):
        pixels = held(split)
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (count, 1, 20, 20))
        assert pixels.untyped_storage().nbytes() == count * 400, "the margins that are cut off are not kept"
        assert every_input(split).dtype == torch.float32


def formerly(images: Tensor, side: int) -> Tensor:
    """The computation of the time when every image was normalised as it was read: (n, 28, 28) to (n, side · side)."""
    if side > 28:
        margin = side - 28
        before, after = margin // 2, margin - margin // 2
        images = torch.nn.functional.pad(images, (before, after, before, after))
    edge = round((images.shape[-1] - side) / 2)
    center = images[:, edge : edge + side, edge : edge + side]
    return center.float().div_(255).sub_(0.1307).div_(0.3081).flatten(1)


@pytest.mark.parametrize("side", [4, 5, 20, 28, 31, 32])
@pytest.mark.parametrize("kind", [Kind.features, Kind.image])
def test_batches_are_bit_for_bit_what_they_were_when_floats_were_kept(kind: Kind, side: int) -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(13)[: 4 * 784].view(4, 28, 28)  # every value a pixel can have
    expected = formerly(images, side)
    split = Images(None, mnist.crop(images, side), mnist.MEAN, mnist.STD, flat=kind is Kind.features)
    shape = (-1, side * side) if kind is Kind.features else (-1, 1, side, side)
    assert torch.equal(every_input(split), expected.view(shape))
    rows = torch.tensor([3, 0, 3])
    (values,) = split.inputs(rows)
    assert torch.equal(values, expected[rows].view(shape))
    (values,) = split.take(torch.tensor([2, 1])).inputs(torch.tensor([1]))
    assert torch.equal(values, expected[1:2].view(shape))


def test_a_batch_can_be_written_to_without_a_change_to_the_data(load: Callable[..., TaskData]) -> None:
    train = load().train
    for (values,), _ in train.batches(16):
        values.fill_(7)
    assert grey(train) == list(range(40))


@pytest.mark.parametrize(("kind", "shape"), [(Kind.features, (1024,)), (Kind.image, (1, 32, 32))])
def test_what_a_network_takes_is_known_without_data_and_is_what_it_gets(kind: Kind, shape: tuple[int, ...]) -> None:
    (spec,) = mnist.inputs(Mnist(crop=32), kind)
    data = load_sample(crop=32, kind=kind)
    assert data.inputs == (spec,)
    assert (spec.shape, spec.dtype, mnist.classes(Mnist())) == (shape, "float32", 10)
    values = every_input(data.train)
    assert values.shape[1:] == shape
    assert (values.amin(), values.amax()) == pytest.approx((spec.low, spec.high), rel=1e-6)


# --- calibration -----------------------------------------------------------------------------------


def test_calibration_examples_are_distinct_training_examples_with_their_labels(load: Callable[..., TaskData]) -> None:
    calibration = load(calibration_examples=10).calibration
    rows = grey(calibration)  # an image's grey value is its row
    assert len(set(rows)) == len(rows) == 10
    assert set(rows) <= set(range(TRAIN))
    assert calibration.labels.tolist() == [row % 10 for row in rows]


def test_the_seed_decides_which_examples_calibrate(load: Callable[..., TaskData]) -> None:
    assert grey(load(seed=3).calibration) == grey(load(seed=3).calibration)
    assert set(grey(load(seed=3).calibration)) != set(grey(load(seed=4).calibration))


def test_calibration_leaves_the_other_splits_and_the_global_random_state_alone(load: Callable[..., TaskData]) -> None:
    state = torch.random.get_rng_state()
    data = load(seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert grey(data.train) == list(range(40))
    assert grey(data.test) == list(range(100, 112))


def test_calibration_on_test_draws_from_test(load: Callable[..., TaskData]) -> None:
    calibration = load(calibration=CalibrationSplit.test, calibration_examples=TEST).calibration
    assert sorted(grey(calibration)) == list(range(100, 112))


@pytest.mark.parametrize(("split", "size"), [(CalibrationSplit.train, TRAIN), (CalibrationSplit.test, TEST)])
def test_more_calibration_examples_than_there_are_is_refused(
    load: Callable[..., TaskData], split: CalibrationSplit, size: int
) -> None:
    assert len(load(calibration=split, calibration_examples=size).calibration) == size
    rule = f"quant.calibration_examples must be at most {size}, the size of the {split.value} split, got {size + 1}"
    with pytest.raises(ConfigError, match=rule):
        load(calibration=split, calibration_examples=size + 1)


# --- the sample ------------------------------------------------------------------------------------


def test_the_sample_has_1437_digits_to_train_on_and_360_to_test() -> None:
    data = load_sample()
    assert (len(data.train), len(data.test), len(data.calibration)) == (1437, 360, 512)
    assert (data.inputs[0].values, data.classes) == (400, 10)
    for split in (data.train, data.test):
        assert set(split.labels.tolist()) == set(range(10))
        assert split.labels.dtype == torch.int64
        assert every_input(split).shape == (len(split), 400)


def test_no_digit_of_the_sample_is_both_trained_on_and_tested() -> None:
    data = load_sample()
    trained = {values.numpy().tobytes() for values in every_input(data.train)}
    assert not any(values.numpy().tobytes() in trained for values in every_input(data.test))


def test_a_digit_of_the_sample_lies_in_the_middle_of_a_black_margin_of_four_pixels() -> None:
    images = every_input(load_sample(crop=28).train).view(-1, 28, 28)
    black = -0.1307 / 0.3081
    margin = torch.ones(28, 28, dtype=torch.bool)
    margin[4:24, 4:24] = False
    torch.testing.assert_close(images[:, margin], torch.full((1437, 28 * 28 - 400), black))
    assert images[:, ~margin].amax() == pytest.approx((1 - 0.1307) / 0.3081)  # 16 of 16 became white


def test_the_sample_is_the_same_each_time() -> None:
    first, second = load_sample(), load_sample()
    assert torch.equal(every_input(first.train), every_input(second.train))
    assert first.fingerprint == second.fingerprint
