"""Sound files of the user: decoded once to int16 of one rate and length, made float32 in [-1, 1) batch by batch.

Channels are averaged, other rates are resampled with a polyphase filter, long sounds are cut at the end and short ones
padded with silence. With `task.normalize` each example gets mean 0 and variance 1, as Wav2Vec 2.0 wants it. WAV files
are read by scipy, FLAC files by the optional package soundfile.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantexp.config import Audio, DataRequest, Kind
from quantexp.results import InputSpec
from quantexp.system.errors import DataError, ModelError
from quantexp.system.extras import require
from quantexp.tasks.data import Split, TaskData, taken_rows
from quantexp.tasks.decoded import Store, decoded, rows_of
from quantexp.tasks.files import read_bytes
from quantexp.tasks.inputs import Batch
from quantexp.tasks.listing import AUDIO, ignored_text
from quantexp.tasks.own_files import divided, log, task_data
from quantexp.tasks.preparation import Preparation

STEPS = 32768  # of int16, for 1.0
VARIANCE = 1e-7  # added to that of an example, as in the feature extractor of Wav2Vec 2.0
MARGIN = 0.1  # seconds that are resampled beyond the end, so that the cut leaves no trace
RULE = "raw inputs of audio must be a path, or samples at task.rate as an array of int16 or of floats in [-1, 1]"

Sound = NDArray[np.float64]
"""The samples of one channel, in [-1, 1)."""


@dataclass(frozen=True)
class Sounds(Split):
    """Sounds as int16; a batch is float32, shape (examples, samples), in [-1, 1) or normalised.

    Example i is `samples[rows[i]]`. `samples` has the sounds of all splits and may be mapped from a file.
    """

    samples: NDArray[np.int16]
    rows: Tensor
    normalize: bool

    def __len__(self) -> int:
        return len(self.rows)

    def inputs(self, rows: Tensor) -> Batch:
        sounds = torch.from_numpy(rows_of(self.samples, self.rows[rows])).float().div_(STEPS)
        if self.normalize:
            variance, mean = torch.var_mean(sounds, 1, correction=0, keepdim=True)
            sounds = (sounds - mean) / torch.sqrt(variance + VARIANCE)
        return (sounds,)

    def take(self, rows: Tensor) -> Sounds:
        return replace(self, labels=taken_rows(self.labels, rows), rows=self.rows[rows])


def load(task: Audio, kind: Kind, request: DataRequest) -> TaskData:
    """Decode the sounds. Raises DataError if files are missing or damaged."""
    listing = AUDIO.listing(request)
    if listing.ignored:
        log.info("data      %s", ignored_text(listing.ignored))
    resampled: set[tuple[int, str]] = set()

    def decode(content: bytes, path: Path) -> NDArray[np.int16]:
        sound, rate = _read(content, path)
        if rate != task.rate:
            resampled.add((rate, str(path)))
        return _prepared(sound, rate, task)

    store = Store(request.cache_dir, task.memory_mb, f"audio {task.rate} {task.samples}")
    with _strict():
        found = decoded(listing.folder, listing.files, (task.samples,), "int16", decode, store)
    if resampled:
        rates = ", ".join(f"{rate:,}" for rate in sorted({rate for rate, _ in resampled})[:5])
        log.info("data      resampled %s files from %s Hz to %s Hz", f"{len(resampled):,}", rates, f"{task.rate:,}")
    labels = listing.labels(listing.files)
    numbers = torch.tensor(labels)

    def make(rows: Tensor) -> Sounds:
        return Sounds(numbers[rows], found.values, rows, task.normalize)

    return task_data(
        divided(len(listing.train), len(listing.test), task.test_share, request),
        make,
        numbers,
        listing.classes,
        request,
        preparation=Preparation(inputs(task, kind)),
        fingerprint=found.digest,
    )


def inputs(task: Audio, kind: Kind) -> tuple[InputSpec, ...]:
    """Return the only input: the samples of a sound, float32."""
    low, high = (None, None) if task.normalize else (-1.0, 1.0)
    return (InputSpec("samples", (task.samples,), "float32", low, high),)


def classes(task: Audio) -> int:
    """Return the number of classes that is set for data=synthetic."""
    return task.classes


def encode(task: Audio, kind: Kind, raw: Any, preparation: Preparation) -> tuple[Batch, bool]:
    """Prepare raw sounds: one gives a batch of one and True, a list or a stack of n a batch of n and False.

    Args:
        task: Has the rate and the length.
        kind: Features and waveform are the same.
        raw: A path, or samples at `task.rate`, int16 or floats in [-1, 1], of any length; or a list of them, or an
            array (n, samples).
        preparation: Not used.

    Raises:
        ModelError: If `raw` has another form, or a file cannot be read.
    """
    several = _is_list(raw) or getattr(raw, "ndim", 0) == 2
    sounds = list(raw) if several else [raw]
    if not sounds:
        raise ModelError(f"{RULE}, or a list of at least one of them; got an empty one")
    try:
        with _strict():
            found = [_prepared(*_opened(sound, task), task) for sound in sounds]
    except DataError as error:
        raise ModelError(str(error)) from error
    split = Sounds(None, np.stack(found), torch.arange(len(found)), task.normalize)
    return split.inputs(split.rows), not several


@contextmanager
def _strict() -> Iterator[None]:
    """Make an error of what scipy warns of, such as a file that is cut off; around threads, never in one."""
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("error", wavfile.WavFileWarning)
        warnings.filterwarnings("ignore", "Chunk", wavfile.WavFileWarning)  # of metadata
        yield


def _is_list(raw: Any) -> bool:
    """Return whether a raw input is a list of sounds, not a list of samples."""
    return isinstance(raw, list | tuple) and not (raw and isinstance(raw[0], int | float))


def _opened(raw: Any, task: Audio) -> tuple[Sound, int]:
    """Return the samples of a raw input and their rate. Raises ModelError, DataError."""
    if isinstance(raw, str | Path):
        path = Path(raw).expanduser()
        return _read(read_bytes(path), path)
    try:
        samples = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{RULE}; got a {type(raw).__name__}") from error
    if samples.ndim != 1 or not samples.size or not (samples.dtype == np.int16 or samples.dtype.kind == "f"):
        raise ModelError(f"{RULE}; got a {type(raw).__name__} of {samples.dtype} and shape {samples.shape}")
    return _scaled(samples, "a raw input"), task.rate


def _read(content: bytes, path: Path) -> tuple[Sound, int]:
    """Return the samples in a file, averaged over its channels, and their rate. Raises DataError, ConfigError."""
    if content.startswith(b"fLaC"):
        require("soundfile", f"reading {path.name}")
    try:
        if content.startswith(b"fLaC"):
            import soundfile

            samples, rate = soundfile.read(io.BytesIO(content), dtype="int32")  # the left bits, whatever its depth
        else:
            from scipy.io import wavfile

            rate, samples = wavfile.read(io.BytesIO(content))
    except Exception as error:  # on damaged files the readers can raise anything
        reason = " ".join(f"{error}".split())[:200] or type(error).__name__
        raise DataError(f"{path}: a sound must be a readable WAV or FLAC file ({reason}); replace it") from error
    if not samples.size:
        raise DataError(f"{path}: a sound must have at least one sample, this one has none; replace it")
    return _scaled(samples, str(path)), int(rate)


def _scaled(samples: NDArray[Any], where: str) -> Sound:
    """Return samples of any depth as one channel in [-1, 1). Raises DataError if one is not finite."""
    if samples.dtype.kind == "f":
        if not np.isfinite(samples).all():
            raise DataError(f"{where}: samples must be finite numbers, one is not; replace it")
        scaled = samples.astype(np.float64)
    elif samples.dtype == np.uint8:
        scaled = (samples.astype(np.float64) - 128) / 128
    else:
        scaled = samples / float(2 ** (8 * samples.dtype.itemsize - 1))
    return scaled if scaled.ndim == 1 else scaled.mean(1)


def _prepared(sound: Sound, rate: int, task: Audio) -> NDArray[np.int16]:
    """Return a sound at the rate and of the length of the task."""
    if rate != task.rate:
        from scipy.signal import resample_poly

        shared = math.gcd(rate, task.rate)
        enough = math.ceil((task.samples / task.rate + MARGIN) * rate)
        sound = resample_poly(sound[:enough], task.rate // shared, rate // shared)
    found = np.zeros(task.samples, np.int16)
    sound = sound[: task.samples]
    found[: len(sound)] = (sound * STEPS).round().clip(-STEPS, STEPS - 1)
    return found
