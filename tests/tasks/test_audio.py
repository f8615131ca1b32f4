"""Sound files of the user: what is read, how it is prepared, and what is refused."""

from __future__ import annotations

import logging
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import wavfile

from quantexp import tasks
from quantexp.config import Audio, DataRequest, DataSource, Dynamic, Experiment, Kind, Train, Wav2Vec2
from quantexp.mission import run
from quantexp.storage.stored import load as load_stored
from quantexp.storage.stored import save
from quantexp.system.errors import ConfigError, DataError, ModelError
from quantexp.tasks import audio
from quantexp.tasks.data import TaskData

RATE = 1000
SHORT = {"rate": RATE, "seconds": 0.1}  # 100 samples


def tone(hertz: float, seconds: float = 0.1, rate: int = RATE) -> NDArray[np.float64]:
    """A sine of half the full range."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def write(path: Path, sound: NDArray[Any], rate: int = RATE, dtype: str = "int16") -> Path:
    """Write a WAV file; floats in [-1, 1) are scaled to the integers of that type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if dtype == "int24":
        integers = (sound * 2**23).astype("<i4")
        packed = integers.view(np.uint8).reshape(-1, 4)[:, :3]
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(3)
            file.setframerate(rate)
            file.writeframes(packed.tobytes())
        return path
    kinds = {"uint8": lambda x: x * 128 + 128, "int16": lambda x: x * 2**15, "int32": lambda x: x * 2**31}
    wavfile.write(path, rate, kinds.get(dtype, lambda x: x)(sound).astype(dtype))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Low and high tones, two of each to train on and one to test."""
    for name, hertz in (("low", 50), ("high", 200)):
        for number in range(2):
            write(tmp_path / "tones" / "train" / name / f"{number}.wav", tone(hertz + number))
        write(tmp_path / "tones" / "test" / name / "0.wav", tone(hertz))
    return tmp_path / "tones"


def loaded(folder: Path, kind: Kind = Kind.waveform, **settings: Any) -> TaskData:
    request = DataRequest(data_dir=str(folder), cache_dir=str(folder.parent / "cache"), calibration_examples=1)
    return tasks.load(Audio(**{**SHORT, **settings}), kind, request)


def decoded(path: Path, **settings: Any) -> list[int]:
    return audio._prepared(*audio._read(path.read_bytes(), path), Audio(**{**SHORT, **settings})).tolist()


def test_folders_are_classes_and_sounds_are_waveforms(folder: Path) -> None:
    data = loaded(folder)
    assert data.class_names == ("high", "low")
    assert data.train.labels is not None and data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.inputs[0].shape == (100,)
    (sounds,) = data.train.first(4)
    assert sounds.dtype is torch.float32
    assert sounds.mean(1).tolist() == pytest.approx([0] * 4, abs=1e-6)
    assert sounds.var(1, correction=0).tolist() == pytest.approx([1] * 4, rel=1e-5)
    assert torch.equal(loaded(folder, Kind.features).train.first(4)[0], sounds)


def test_without_normalising_values_are_those_of_the_file(folder: Path) -> None:
    data = loaded(folder, normalize=False)
    expected = (tone(200) * 2**15).astype(np.int16) / 2**15
    assert data.train.first(1)[0][0].tolist() == pytest.approx(expected.tolist(), abs=1e-7)
    assert (data.inputs[0].low, data.inputs[0].high) == (-1, 1)


def test_a_silent_sound_stays_silent(folder: Path) -> None:
    write(folder / "train" / "low" / "0.wav", np.zeros(100))
    (sounds,) = loaded(folder).train.first(4)
    assert sounds[2].tolist() == [0.0] * 100


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int24", "int32", "float32", "float64"])
def test_every_depth_of_wav_is_read(tmp_path: Path, dtype: str) -> None:
    sound = np.array([0, 0.5, -0.5, 0.25, -1.0])  # exact in 8 bits
    found = decoded(write(tmp_path / "a.wav", sound, dtype=dtype))
    assert found == [0, 16384, -16384, 8192, -32768, *[0] * 95]


def test_floats_beyond_one_are_clipped(tmp_path: Path) -> None:
    assert decoded(write(tmp_path / "a.wav", np.array([1.0, 1.5, -2.0]), dtype="float32"))[:3] == [32767, 32767, -32768]


def test_channels_are_averaged(tmp_path: Path) -> None:
    found = decoded(write(tmp_path / "a.wav", np.array([[0.5, 0.25], [-0.5, 0.5]])))
    assert found[:2] == [12288, 0]


def test_long_sounds_are_cut_and_short_ones_padded_with_silence(tmp_path: Path) -> None:
    long = np.arange(300) / 1000
    assert decoded(write(tmp_path / "a.wav", long)) == (long[:100] * 2**15).astype(int).tolist()
    assert decoded(write(tmp_path / "b.wav", np.full(3, 0.5))) == [16384] * 3 + [0] * 97


@pytest.mark.parametrize("rate", [4000, 441, 1500])
def test_another_rate_is_resampled(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav", tone(50, seconds=1.0, rate=rate), rate)
    found = np.array(decoded(path, seconds=0.5)) / 2**15
    expected = tone(50, seconds=0.5)
    assert np.abs(found - expected)[30:].max() < 0.01  # at the beginning the filter sees the silence before it


def test_resampling_is_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        write(folder / "train" / "low" / f"{number}.wav", tone(50, rate=4000), 4000)
    with caplog.at_level(logging.INFO):
        loaded(folder)
    said = [record.getMessage() for record in caplog.records if "resampled" in record.getMessage()]
    assert said == ["data      resampled 2 files from 4,000 Hz to 1,000 Hz"]


@pytest.mark.extras
def test_flac_is_read_as_the_same_wav_is(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    sound = tone(50)
    wav = write(tmp_path / "a.wav", sound)
    for depth in ("PCM_16", "PCM_24"):
        flac = tmp_path / f"{depth}.flac"
        soundfile.write(flac, wavfile.read(wav)[1], RATE, subtype=depth)
        assert decoded(flac) == decoded(wav)
    flac.write_bytes(flac.read_bytes()[:100])
    with pytest.raises(DataError, match=r"PCM_24\.flac: a sound must be a readable WAV or FLAC file"):
        decoded(flac)


def test_flac_without_its_package_is_refused_before_anything_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "train" / "low" / "z.flac").write_bytes(b"fLaC")
    monkeypatch.setattr("quantexp.system.extras.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"reading train/low/z\.flac needs the package soundfile, .*pip install"):
        tasks.sources_of(Audio()).check(DataRequest(data_dir=str(folder)))


def test_mapped_sounds_are_those_in_memory(folder: Path) -> None:
    mapped, plain = loaded(folder, memory_mb=0), loaded(folder)
    assert mapped.fingerprint == plain.fingerprint
    assert torch.equal(mapped.train.first(4)[0], plain.train.first(4)[0])
    assert list((folder.parent / "cache" / "data").glob("decoded-*.bin"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "train/low/1.wav: a sound must be a readable WAV or FLAC file"),
        (b"RIFF no sound", "train/low/1.wav: a sound must be a readable WAV or FLAC file"),
        (None, "train/low/1.wav: a sound must be a readable WAV or FLAC file"),
    ],
    ids=["empty", "text", "cut off"],
)
def test_a_damaged_file_is_named(folder: Path, content: bytes | None, message: str) -> None:
    path = folder / "train" / "low" / "1.wav"
    path.write_bytes(path.read_bytes()[:100] if content is None else content)
    with pytest.raises(DataError) as error:
        loaded(folder)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("sound", "message"), [(np.zeros(0), "must have at least one sample"), (np.array([np.nan]), "must be finite")]
)
def test_sounds_need_finite_samples(folder: Path, sound: NDArray[Any], message: str) -> None:
    write(folder / "test" / "low" / "0.wav", sound, dtype="float32")
    with pytest.raises(DataError, match=f"test/low/0.wav: .*{message}"):
        loaded(folder)


def test_a_stored_network_predicts_from_files_and_samples(sample: Callable[..., Experiment], tmp_path: Path) -> None:
    folder = tmp_path / "tones"
    for number in range(30):
        for name, hertz in (("low", 50), ("high", 200)):
            write(folder / ("test" if number % 5 == 0 else "train") / name / f"{number}.wav", tone(hertz + number / 10))
    made = run(
        sample(
            task=Audio(**SHORT),
            quant=Dynamic(),
            train=Train(epochs=20),
            data="full",
            data_dir=str(folder),
            batch_size=[1],
        )
    )
    assert made.report.result.quality is not None and made.report.result.quality.value == 1.0
    save(tmp_path / "stored", made.model, made.recipe)
    model = load_stored(tmp_path / "stored")
    path = folder / "test" / "low" / "0.wav"
    assert model.predict(str(path)).name == "low"  # type: ignore[union-attr]
    assert model.predict([path, folder / "test" / "high" / "0.wav"])[1].name == "high"  # type: ignore[index]
    samples = wavfile.read(path)[1]
    assert model.predict(samples) == model.predict(path) == model.predict(samples / 2**15)
    assert len(model.predict(np.stack([samples] * 3))) == 3  # type: ignore[arg-type]
    for raw, message in (
        (str(tmp_path / "nowhere.wav"), "nowhere.wav: cannot be read"),
        (np.zeros(5, np.int64), "got a ndarray of int64"),
        ([], "got an empty one"),
        (3, "got a int of int64"),
    ):
        with pytest.raises(ModelError, match=message):
            model.predict(raw)


@pytest.mark.slow
def test_random_sounds_need_no_files(sample: Callable[..., Experiment]) -> None:
    network = Wav2Vec2(channels=8, hidden=16, layers=1, heads=2, feed_forward=16)
    experiment = sample(
        task=Audio(seconds=0.05), data=DataSource.synthetic, model=network, quant=Dynamic(), batch_size=[1]
    )
    report = run(experiment).report
    assert (report.data.source, report.result.quality) == ("synthetic", None)
