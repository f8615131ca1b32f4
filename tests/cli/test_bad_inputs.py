"""What a user can get wrong, through the command: it ends with a message that names the fault and the way out.

A message is good if it holds what was given and what is possible. None is a traceback, and none leaves
the exit status at 0, except where a run can go on: a damaged cache entry, a disk that is full.
"""

from __future__ import annotations

import gzip
import http.server
import json
import os
import pickle
import re
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quantexp import __main__, models, tasks
from quantexp.config import DataRequest, DataSource, Engine, Experiment, Kind, Mlp, Mnist, Train
from quantexp.mission import load
from quantexp.results import InputSpec, parse_report
from quantexp.system.errors import DataError
from quantexp.tasks import sources
from quantexp.training.baseline import trained

pytestmark = pytest.mark.slow

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SMALL = ("data=sample", "benchmark=quick", "batch_size=1", "train.epochs=1", "task.hidden=[8]")
PATIENCE = 180  # seconds until a command that hangs is given up
NETWORK = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
CLOSED = "http://127.0.0.1:9"  # the discard port: nobody listens


def refused(done: subprocess.CompletedProcess[str], *told: str, status: int | None = None) -> str:
    """Check that the command was refused in words that hold each of `told`; return them."""
    assert done.returncode not in (0, None)
    assert status is None or done.returncode == status
    assert "Traceback" not in done.stderr
    for text in told:
        assert text in done.stderr
    return done.stderr


# -- values: told within a second, with exit status 2, before anything is imported or written ------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["task=cifar"], ["task cannot be cifar", "mnist", "sst2"], id="task-unknown"),
        pytest.param(
            ["quant=int4"], ["quant cannot be int4", "amp", "dynamic", "none", "qat", "static"], id="method-unknown"
        ),
        pytest.param(["model=resnet"], ["model cannot be resnet", "lenet5", "mlp"], id="model-unknown"),
        pytest.param(
            ["benchmark=slow"], ["benchmark cannot be slow", "lab", "paired", "quick"], id="benchmark-unknown"
        ),
        pytest.param(["task="], ["task cannot be empty", "mnist", "sst2"], id="group-without-a-value"),
        pytest.param(["quants=qat"], ["setting quants", "Did you mean quant?"], id="key-unknown"),
        pytest.param(["train.epoch=3"], ["setting train.epoch", "Did you mean epochs?"], id="nested-key-unknown"),
        pytest.param(
            ["quant.bits=4"], ["setting quant.bits", "Possible here: activations, calibration"], id="key-of-no-method"
        ),
        pytest.param(
            ["task=sst2", "task.crop=20"],
            ["setting task.crop", "hidden, length, tokenizer, vocabulary"],
            id="key-of-the-other-task",
        ),
        pytest.param(["+momentum=0.9"], ["setting momentum", "--help"], id="key-forced"),
        pytest.param(["+train.momentum=0.9"], ["setting train.momentum", "leave out the +"], id="nested-key-forced"),
        pytest.param(["train.epochs=many"], ["train.epochs", "'many'", "Integer"], id="text-for-an-integer"),
        pytest.param(["train.epochs=2.5"], ["train.epochs", "'2.5'", "Integer"], id="float-for-an-integer"),
        pytest.param(["train.epochs=true"], ["train.epochs", "'True'", "Integer"], id="bool-for-an-integer"),
        pytest.param(["train.epochs=null"], ["train.epochs", "not Optional"], id="null-for-an-integer"),
        pytest.param(["train.learning_rate=fast"], ["learning_rate", "'fast'", "Float"], id="text-for-a-float"),
        pytest.param(["task.hidden=8"], ["task.hidden is a list, got 8;", "'task.hidden=[8]'"], id="number-for-a-list"),
        pytest.param(["task.hidden=[a]"], ["task.hidden[0]", "'a'", "Integer"], id="text-in-a-list"),
        pytest.param(["precision=8"], ["bare number 8", "int8"], id="precision-as-a-bare-number"),
        pytest.param(["quant=amp", "precision=int8"], ["precision=int8", "quant=amp", "bf16, fp16"], id="pair-amp"),
        pytest.param(
            ["quant=static", "precision=bf16"], ["precision=bf16", "quant=none: fp32, bf16"], id="pair-static"
        ),
        pytest.param(["quant=none", "precision=int8"], ["precision=int8", "quant=dynamic: int8, fp16"], id="pair-none"),
        pytest.param(
            ["quant=qat", "quant.start=scratch", "train.checkpoint=mine.pt"],
            ["quant.start=scratch", "train.checkpoint=mine.pt", "give one of the two"],
            id="pair-scratch-checkpoint",
        ),
        pytest.param(["train.epochs=-1"], ["train.epochs must be at least 1, got -1"], id="negative"),
        pytest.param(["train.batch_size=0"], ["train.batch_size must be at least 1, got 0"], id="zero"),
        pytest.param(["benchmark.seconds=0"], ["benchmark.seconds must be above 0, got 0"], id="no-time-to-measure"),
        pytest.param(["train.learning_rate=nan"], ["train.learning_rate must be a finite number, got nan"], id="nan"),
        pytest.param(["train.learning_rate=inf"], ["train.learning_rate must be a finite number, got inf"], id="inf"),
        pytest.param(["benchmark.placements=1"], ["benchmark.placements must be at least 2"], id="one-placement"),
        pytest.param(["quant=qat", "quant.freeze_after=1.5"], ["at most 1, got 1.5"], id="share-above-one"),
        pytest.param(["task.crop=2000"], ["task.crop must be at most 1024, got 2000"], id="crop-too-large"),
        pytest.param(
            ["model=lenet5", "task=sst2"],
            ["model=lenet5 takes image, task=sst2 gives features or tokens; task=sst2 goes with model=mlp, lstm, bert"],
            id="network-for-images",
        ),
        pytest.param(
            ["-m", "model=mlp,lenet5", "task.crop=28"],
            ["model=lenet5 takes images of 32x32, got task.crop=28", "(in model=lenet5"],
            id="crop-of-another-network",
        ),
        pytest.param(
            ["evaluation=validation"],
            ["evaluation=validation needs examples", "got validation=0", "validation=0.1"],
            id="validation-without-examples",
        ),
        pytest.param(["validation=1"], ["validation must be at most 0.9, got 1"], id="validation-of-all"),
        pytest.param(["evaluation=train"], ["'train'", "test, validation"], id="evaluation-unknown"),
        pytest.param(["seed=-1"], ["seed must be at least 0, got -1"], id="seed-negative"),
        pytest.param(["seed=99999999999"], ["seed must be at most", "got 99999999999"], id="seed-out-of-range"),
        pytest.param(["task.hidden=[8,0]"], ["task.hidden must be at least 1, got 0"], id="layer-without-units"),
        pytest.param(["batch_size=[]"], ["batch_size must be", "such as 64 or [1,64]", "got []"], id="batch-none"),
        pytest.param(["batch_size=[1,8,1]"], ["each size once", "[1, 8, 1]"], id="batch-twice"),
        pytest.param(["batch_size=1000000"], ["batch_size must be at most 65536, got 1000000"], id="batch-huge"),
        pytest.param(["batch_size=[1,2.5]"], ["batch_size must be", "got 2.5 in [1, 2.5]"], id="batch-fractional"),
        pytest.param(["batch_size=big"], ["batch_size must be", "got 'big'"], id="batch-text"),
        pytest.param(["=3"], ["as in task=mnist", "--help"], id="override-without-a-key"),
        pytest.param(["task=3"], ["as in task=mnist", "--help"], id="number-for-a-name"),
        pytest.param(["quant"], ["'quant'", "missing EQUAL"], id="override-without-a-value"),
        pytest.param(["batch_size=[1,64"], ["[1,64", "--help"], id="bracket-left-open"),
        pytest.param(["quant=static,qat"], ["quant=static,qat", "takes -m"], id="sweep-without-m"),
        pytest.param(["quant.engine=1"], ["'1'", "x86, fbgemm, onednn, qnnpack"], id="enum-by-number"),
        pytest.param(["quant.observer=median"], ["'median'", "histogram, minmax"], id="enum-unknown"),
        pytest.param(
            ["quant=static", "quant.flow=torchao"],
            [
                "quant.flow=torchao is not supported by quant=static, which has fx, eager, pt2e",
                "quant=dynamic: eager",
            ],
            id="flow-of-another-method",
        ),
        pytest.param(
            ["quant=dynamic", "quant.flow=pt2e", "precision=fp16"],
            ["precision=fp16 is not supported by quant=dynamic in flow pt2e", "quant.flow=eager: int8, fp16"],
            id="precision-of-another-flow",
        ),
        pytest.param(
            ["quant.flow=pt2e", "quant.engine=fbgemm"],
            ["quant.engine cannot be chosen in quant.flow=pt2e, got fbgemm", "use quant.flow=fx or eager"],
            id="lever-of-another-flow",
        ),
        pytest.param(["data=tiny"], ["'tiny'", "full, sample"], id="data-unknown"),
        pytest.param(["tracking.experiment=''"], ["must name an experiment, got ''"], id="experiment-without-a-name"),
        pytest.param(["tracking=server"], ["got none", "tracking.uri=http://host:5000"], id="server-without-a-uri"),
        pytest.param(
            ["tracking=server", "tracking.uri=mlruns"], ["'mlruns'", "sqlite:////path.db"], id="uri-without-a-scheme"
        ),
        pytest.param(
            ["tracking.uri=sqlite:///other.db"], ["sqlite:///other.db", "tracking=server"], id="uri-of-the-local-store"
        ),
        pytest.param(["--bogus"], ["--bogus", "usage"], id="flag-unknown"),
        pytest.param(
            ["-m", "quant=static", "precision=int8,bf16"], ["precision=bf16", "(in quant=static"], id="pair-in-a-sweep"
        ),
        pytest.param(["data_dir=/no/such/folder"], ["/no/such/folder", "mnist/MNIST/raw"], id="data-dir-missing"),
        pytest.param(
            ["train.checkpoint=/no/such/weights.pt", "data=sample"],
            ["train.checkpoint", "/no/such/weights.pt"],
            id="checkpoint-missing",
        ),
    ],
)
def test_a_value_that_cannot_be_run_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    told: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", ["quantexp", *arguments])
    with pytest.raises(SystemExit) as left:  # in this process: starting one takes longer than all the rest
        __main__._run_hydra()
    printed = capfd.readouterr()
    assert left.value.code == 2
    refused(subprocess.CompletedProcess(arguments, 2, printed.out, printed.err), *told)
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []  # no store, no folder: nothing has begun


def test_every_fault_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantexp: Command) -> None:
    monkeypatch.chdir(tmp_path)
    done = quantexp("-m", "task=mnist,sst2", "seed=-1", "precision=int4", "batch_size=0")
    faults = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(faults) == 3  # each once, though both tasks have them
    refused(done, "seed must be at least 0", "precision=int4 is not supported", "batch_size must be", status=2)


# -- data ------------------------------------------------------------------------------------------------


def idx(*shape: int, value: int = 0) -> bytes:
    """An IDX file of unsigned bytes, gzipped."""
    values = bytes([value]) * torch.Size(shape).numel()
    return gzip.compress(struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values)


def mnist_folder(root: Path, **files: bytes | None) -> Path:
    """A data folder with an MNIST of twenty blank images, some of its files replaced, or left out if None."""
    raw = root / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    good = {name: idx(20, 28, 28) if "images" in name else idx(20) for name in sources.MNIST_NAMES}
    for name, content in (good | files).items():
        if content is not None:
            (raw / f"{sources.MNIST_NAMES[name]}.gz").write_bytes(content)
    return root


def sst2_folder(root: Path, **files: bytes | None) -> Path:
    """A data folder with an SST-2 of twenty sentences, some of its files replaced, or left out if None."""
    folder = root / "sst2"
    folder.mkdir(parents=True)
    good = b"sentence\tlabel\n" + b"good\t1\nbad\t0\n" * 10
    for name, content in ({"train": good, "dev": good} | files).items():
        if content is not None:
            (folder / f"{name}.tsv").write_bytes(content)
    return root


MNIST_DAMAGE: dict[str, tuple[dict[str, bytes], list[str]]] = {
    "gzip-truncated": ({"train_images": idx(20, 28, 28)[:40]}, ["train-images-idx3-ubyte.gz", "download it again"]),
    "no-gzip": ({"test_images": b"not a gzip file"}, ["t10k-images-idx3-ubyte.gz", "download it again"]),
    "wrong-magic": (
        {"train_labels": gzip.compress(b"\x00\x00\x0d\x01" + bytes(24))},
        ["train-labels-idx1-ubyte.gz", "00 00 0d 01", "expected 00 00 08 01"],
    ),
    "other-size": ({"test_images": idx(20, 32, 32)}, ["t10k-images-idx3-ubyte.gz", "28x28", "(20, 32, 32)"]),
    "labels-short": ({"test_labels": idx(7)}, ["t10k-labels-idx1-ubyte.gz", "7 labels for 20 images"]),
    "label-ten": ({"train_labels": idx(20, value=10)}, ["train-labels-idx1-ubyte.gz", "0 to 9, found 10"]),
}
SST2_DAMAGE: dict[str, tuple[dict[str, bytes], list[str]]] = {
    "column-missing": ({"train": b"text\tlabel\ngood\t1\n"}, ["train.tsv", "lacks sentence", "['text', 'label']"]),
    "label-two": ({"dev": b"sentence\tlabel\ngood\t1\nso so\t2\n"}, ["dev.tsv", "line 3", "0 or 1, got '2'"]),
    "not-utf-8": ({"train": b"sentence\tlabel\ncaf\xe9\t1\n"}, ["train.tsv", "line 2", "0xe9", "save it as UTF-8"]),
    "line-cut-off": ({"dev": b"sentence\tlabel\ngood\t1\nbad"}, ["dev.tsv", "line 3 has 1 columns, expected 2"]),
    "empty": ({"train": b""}, ["train.tsv", "must have the columns sentence and label"]),
    "no-sentences": ({"dev": b"sentence\tlabel\n"}, ["dev.tsv", "contains no sentences"]),
}


def failures(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The runs that a sweep lists as failed: their overrides and errors."""
    lines = done.stderr[done.stderr.rindex("combinations failed:") :].splitlines()[1:]
    listed: dict[str, str] = {}
    for line in lines:
        if line.startswith("    ") and listed:
            listed[list(listed)[-1]] += line
        else:
            listed[line.strip()] = ""
    return listed


Swept = dict[str, tuple["subprocess.CompletedProcess[str]", str]]


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory, store_template: Path, weights: dict[str, Path]) -> Swept:
    """Sweeps in which every run fails, started together: each fault with its sweep and the error of its run."""
    root = tmp_path_factory.mktemp("failed")
    (root / "file").write_text("no folder")
    sets = [root / f"data-{number}" for number in range(max(len(MNIST_DAMAGE), len(SST2_DAMAGE)))]
    by_data: dict[str, set[str]] = {}
    for write, task, damages in ((mnist_folder, "mnist", MNIST_DAMAGE), (sst2_folder, "sst2", SST2_DAMAGE)):
        for (name, (files, _)), folder in zip(damages.items(), sets, strict=True):
            by_data[name] = {f"task={task}", f"data_dir={write(folder, **files)}"}
    by_weights = {name: {f"train.checkpoint={path}"} for name, path in weights.items()}
    places = {"below-a-file": root / "file" / "cache", "read-only": Path("/proc/quantexp")}
    by_others = {name: {f"cache_dir={path}", "quant.calibration_examples=512"} for name, path in places.items()}
    by_others["calibration-beyond-the-split"] = {"quant.calibration_examples=1438"}
    sweeps: list[tuple[dict[str, set[str]], list[str]]] = [
        (by_data, ["task=mnist,sst2", f"data_dir={','.join(map(str, sets))}", f"cache_dir={root / 'cache'}"]),
        (
            by_weights,
            [f"train.checkpoint={','.join(map(str, weights.values()))}", *SMALL, f"cache_dir={root / 'cache'}"],
        ),
        (
            by_others,
            [f"cache_dir={','.join(map(str, places.values()))}", "quant.calibration_examples=512,1438", *SMALL],
        ),
    ]

    def sweep(number: int) -> Swept:
        faults, arguments = sweeps[number]
        here = root / f"sweep-{number}"
        here.mkdir()
        shutil.copy(store_template, here / "mlflow.db")
        done = subprocess.run(
            [sys.executable, "-m", "quantexp", "-m", *arguments],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        listed = failures(done)
        return {
            name: (done, next(error for overrides, error in listed.items() if asked <= set(overrides.split())))
            for name, asked in faults.items()
        }

    with ThreadPoolExecutor(len(sweeps)) as pool:
        return {name: told for swept in pool.map(sweep, range(len(sweeps))) for name, told in swept.items()}


def refused_in_its_sweep(failed: Swept, fault: str, *told: str) -> None:
    """Check that the run with this fault failed in words that hold each of `told`."""
    done, error = failed[fault]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for text in told:
        assert text in error


@pytest.mark.parametrize("damage", [*MNIST_DAMAGE, *SST2_DAMAGE])
def test_damaged_data_are_refused_by_file_and_fault(failed: Swept, damage: str) -> None:
    refused_in_its_sweep(failed, damage, *(MNIST_DAMAGE | SST2_DAMAGE)[damage][1])


def test_a_data_folder_that_is_a_file_is_refused(workdir: Path, quantexp: Command) -> None:
    (workdir / "file").write_text("no folder")
    refused(quantexp(f"data_dir={workdir}/file", "task=sst2"), f"data_dir={workdir}/file must hold sst2/train.tsv")


def test_a_file_that_the_data_folder_lacks_is_named(workdir: Path, quantexp: Command) -> None:
    mnist_folder(workdir / "data", test_labels=None)
    refused(quantexp(f"data_dir={workdir}/data"), "mnist/MNIST/raw/t10k-labels-idx1-ubyte.gz", "data_dir=null")


def test_more_calibration_examples_than_there_are_is_refused(failed: Swept) -> None:
    told = ["quant.calibration_examples must be at most 1437", "train split", "got 1438"]  # the sample has 1,437
    refused_in_its_sweep(failed, "calibration-beyond-the-split", *told)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lead the way to the hub to a closed port."""
    for name in (*NETWORK, *map(str.upper, NETWORK), "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)


@pytest.mark.usefixtures("no_network")
def test_sst2_without_a_network_is_refused_with_both_ways_out(workdir: Path, quantexp: Command) -> None:
    done = quantexp("task=sst2", f"cache_dir={workdir}/empty", timeout=30)
    refused(done, "sst2 is not in the cache and cannot be downloaded", "data_dir=", "data=sample")


def test_mnist_without_a_network_is_refused_with_both_ways_out(workdir: Path, quantexp: Command) -> None:
    behind = {f"{scheme}_proxy": CLOSED for scheme in ("http", "https")} | {"no_proxy": ""}
    done = quantexp("task=mnist", f"cache_dir={workdir}/empty", timeout=30, **behind)
    refused(done, "mnist is not in the cache and cannot be downloaded", "data_dir=", "data=sample")


@pytest.mark.usefixtures("no_network")
def test_mnist_whose_mirrors_are_all_closed_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MNIST_MIRRORS", (f"{CLOSED}/a/", f"{CLOSED}/b/"))
    with pytest.raises(DataError, match=r"there is no network.*data_dir=FOLDER.*data=sample"):
        tasks.load(Mnist(), Kind.features, DataRequest(cache_dir=str(tmp_path)))


# -- weights ---------------------------------------------------------------------------------------------


class RunsCode:
    """What makes a file on being unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def state(hidden: int) -> dict[str, torch.Tensor]:
    """The state dict of an MLP for MNIST with one hidden layer, as the run's own model has it."""
    return models.build(Mlp(hidden=[hidden]), (InputSpec("pixels", (400,)),), 10).state_dict()


CHECKPOINTS = {
    "wrong-suffix": ["model.onnx", "a file that ends in .safetensors, .pt, .pth, .ckpt or .bin"],
    "wrong-shape": ["shape.safetensors does not fit the network", "expected", "found", "use the model and task"],
    "runs-code": ["code.pt cannot be read as weights", "save model.state_dict()"],
    "whole-object": ["list.pt must hold a state dict", "save model.state_dict()"],
    "damaged-safetensors": ["damaged.safetensors cannot be read as weights", "save model.state_dict()"],
    "damaged-pt": ["damaged.pt cannot be read as weights", "save model.state_dict()"],
    "not-a-number": ["nan.safetensors: weights must be", "finite"],
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of weights that do not do."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: folder / told[0].split()[0].rstrip(":") for name, told in CHECKPOINTS.items()}
    paths["wrong-suffix"].write_bytes(b"ONNX")
    save_file(state(16), paths["wrong-shape"])
    paths["runs-code"].write_bytes(pickle.dumps({"layers.0.weight": RunsCode(folder / "code-was-run")}))
    torch.save([1, 2, 3], paths["whole-object"])
    paths["damaged-safetensors"].write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{garbage")
    paths["damaged-pt"].write_bytes(b"garbage")
    save_file({name: tensor * torch.nan for name, tensor in state(8).items()}, paths["not-a-number"])
    return paths


@pytest.mark.parametrize("fault", CHECKPOINTS)
def test_a_checkpoint_that_does_not_do_is_refused(failed: Swept, fault: str) -> None:
    refused_in_its_sweep(failed, fault, *CHECKPOINTS[fault])


@pytest.mark.usefixtures("failed")
def test_no_code_in_a_checkpoint_is_run(weights: dict[str, Path]) -> None:
    assert not (weights["runs-code"].parent / "code-was-run").exists()
    with pytest.raises(FileNotFoundError):  # the trap itself works: unpickled, it would touch a file
        pickle.loads(pickle.dumps(RunsCode(Path("/no/such/folder/file"))))


def test_an_engine_that_the_machine_lacks_is_refused(workdir: Path, quantexp: Command) -> None:
    supported = torch.backends.quantized.supported_engines
    lacking = [one.value for one in Engine if one.value not in supported]
    if not lacking:
        pytest.skip("this machine has every engine")
    done = quantexp(*SMALL, "quant=dynamic", f"quant.engine={lacking[0]}")
    refused(done, f"got {lacking[0]}", *(name for name in supported if name != "none"))


# -- the cache and the disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["below-a-file", "read-only"])
def test_a_cache_that_cannot_be_written_is_refused(failed: Swept, place: str) -> None:
    folder = "file/cache" if place == "below-a-file" else "/proc/quantexp"
    refused_in_its_sweep(failed, place, "the cache must be a writable folder", folder, "cache_dir=FOLDER")


def test_damaged_cache_entries_are_told_and_trained_again(workdir: Path, quantexp: Command) -> None:
    cache = workdir / "cache"
    experiments = [
        Experiment(
            task=Mnist(hidden=[8]), data=DataSource.sample, train=Train(epochs=1), cache_dir=str(cache), seed=seed
        )
        for seed in (0, 1)
    ]
    entries = []
    for experiment in experiments:
        known = set(cache.glob("models/*.json"))
        trained(experiment, load(experiment))
        entries += list(set(cache.glob("models/*.json")) - known)
    cut, swapped = entries
    whole = {path: path.read_bytes() for path in cache.glob("models/*.safetensors")}
    cut.write_text(cut.read_text()[:100])
    weights = swapped.with_suffix(".safetensors")
    weights.write_bytes(whole[weights][:-1] + bytes([whole[weights][-1] ^ 1]))

    done = quantexp("-m", *SMALL, "quant=none", "seed=0,1", f"cache_dir={cache}")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    for entry in (cut, swapped):
        assert f"warning: the cache entry {entry} is damaged" in done.stderr
    assert len(re.findall(r"train     float mnist: [\d.]+ s, loss", done.stderr)) == 2
    assert {path: path.read_bytes() for path in cache.glob("models/*.safetensors")} == whole  # the same weights again


def test_a_damaged_cache_entry_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = Experiment(task=Mnist(hidden=[8]), data=DataSource.sample, cache_dir=str(tmp_path))
    data = load(experiment)
    trained(experiment, data)
    (entry,) = tmp_path.glob("models/*.json")
    entry.write_text("{")
    trained(experiment, data)
    assert [record.getMessage().count("is damaged") for record in caplog.records if record.levelname == "WARNING"] == [
        1
    ]


def limited(size: int) -> Callable[[], None]:
    """Let a child write no file beyond `size` bytes, as a disk that is full would."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.exhaustive
def test_a_disk_too_full_for_the_cache_costs_the_entry_and_not_the_run(workdir: Path) -> None:
    # 400 x 2500 float32 weights take 4 MB, as int8 they take 1 MB; the store itself has 1.2 MB.
    arguments = [*SMALL[:-1], "task.hidden=[2500]", "quant=dynamic", f"cache_dir={workdir}/cache"]
    done = subprocess.run(
        [sys.executable, "-m", "quantexp", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=limited(3_000_000),
    )
    assert done.returncode == 0, done.stderr
    assert "warning: the trained network cannot be stored" in done.stderr
    assert f"{workdir}/cache/models (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Accuracy (%)" in done.stdout
    assert "recorded: " in done.stdout
    left = {path.suffix for path in (workdir / "cache" / "models").iterdir()}
    assert left == {".lock"}  # neither half an entry nor a scratch file


def test_a_network_beyond_any_memory_is_refused_in_words(workdir: Path, quantexp: Command) -> None:
    done = quantexp(*SMALL[:-1], "quant=none", "task.hidden=[100000000000]")
    told = refused(done, "the run does not fit into memory", "choose a smaller network (task.hidden", status=1)
    assert told.splitlines()[-1].startswith("quantexp: the run does not fit into memory")
    assert "please report it" not in told


# -- the store -------------------------------------------------------------------------------------------


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """Start servers on this machine that answer every request with one status; return their addresses."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(status: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"hello")

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_tracking_server_that_does_not_answer_is_refused_before_the_sweep(workdir: Path, quantexp: Command) -> None:
    done = quantexp("-m", *SMALL, "tracking=server", f"tracking.uri={CLOSED}")
    refused(done, f"{CLOSED} does not", "start it", "tracking=local")
    assert "run 1" not in done.stderr


def test_a_tracking_server_that_does_not_answer_is_refused_before_training(workdir: Path, quantexp: Command) -> None:
    done = quantexp(*SMALL, "tracking=server", f"tracking.uri={CLOSED}")
    refused(done, f"{CLOSED} does not", "start it", "tracking=local")
    assert "train  " not in done.stderr


def test_a_tracking_server_that_fails_is_refused(
    workdir: Path, quantexp: Command, answering: Callable[[int], str]
) -> None:
    address = answering(500)
    refused(quantexp("-m", *SMALL, "tracking=server", f"tracking.uri={address}"), address, "500")


def test_a_server_that_is_none_of_mlflow_is_refused(
    workdir: Path, quantexp: Command, answering: Callable[[int], str]
) -> None:
    address = answering(200)
    done = quantexp("-m", *SMALL, "tracking=server", f"tracking.uri={address}")
    refused(done, address, "hello", "tracking.uri=URI")


def test_a_store_of_plain_files_is_refused(workdir: Path, quantexp: Command) -> None:
    done = quantexp("-m", *SMALL, "tracking=server", f"tracking.uri=file://{workdir}/mlruns")
    refused(done, f"file://{workdir}/mlruns", "sqlite:////path/to/mlflow.db")


def test_a_store_in_a_folder_that_is_not_there_is_refused(workdir: Path, quantexp: Command) -> None:
    done = quantexp("-m", *SMALL, "tracking=server", "tracking.uri=sqlite:////no/such/folder/mlflow.db")
    refused(done, "/no/such/folder/mlflow.db", "there is no folder /no/such/folder", "tracking.uri=sqlite:///")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="this system has no folder in which nobody can make a file")
@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["run", "sweep"])
def test_a_store_in_a_folder_in_which_no_file_can_be_made_is_refused_at_once(
    workdir: Path, quantexp: Command, sweep: list[str]
) -> None:
    done = quantexp(*sweep, *SMALL, "tracking=server", "tracking.uri=sqlite:////proc/a.db", timeout=60)
    told = refused(done, "/proc/a.db", "tracking.uri=", status=1)
    assert "train  " not in told
    assert "cache_dir" not in told, "it is not the cache that cannot be written"


def test_a_store_that_is_no_sqlite_file_is_refused_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantexp: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_text("my notes on MLflow\n" * 100)
    done = quantexp("-m", *SMALL)
    refused(done, f"{tmp_path}/mlflow.db", "is not a SQLite store", "move it away")
    assert (tmp_path / "mlflow.db").read_text().startswith("my notes on MLflow")


def test_a_database_of_another_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantexp: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("mlflow.db")) as connection:
        connection.execute("CREATE TABLE experiments (title TEXT)")
        connection.commit()
    refused(quantexp("-m", *SMALL), f"{tmp_path}/mlflow.db cannot be used", "tracking=server")


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(workdir: Path, quantexp: Command) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    number = client.create_experiment("quantexp")
    client.delete_experiment(number)
    done = quantexp("-m", *SMALL)
    refused(done, "'quantexp'", "is deleted", f"mlflow experiments restore -x {number}", "tracking.experiment=OTHER")


def test_a_result_that_cannot_be_recorded_is_shown_and_kept_in_a_file(workdir: Path, cache: Path) -> None:
    arguments = [*SMALL, "quant=none", "benchmark.seconds=3", f"cache_dir={cache}"]
    child = subprocess.Popen(
        [sys.executable, "-m", "quantexp", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        assert child.stderr is not None
        seen = ""
        while not seen.endswith("(paired)\n"):  # it measures now, the run is open
            line = child.stderr.readline()
            assert line, seen
            seen += line
        shutil.rmtree(workdir / "mlartifacts")
        (workdir / "mlartifacts").write_text("no folder any more")
        stdout, stderr = child.communicate(timeout=PATIENCE)
    assert child.returncode == 1
    assert "Traceback" not in stderr
    assert "cannot be recorded" in stderr
    assert "Accuracy (%)" in stdout  # the table stands there all the same
    (kept,) = workdir.glob("quantexp-report-*.json")
    assert f"The result is kept in {kept}" in stderr
    report = parse_report(kept.read_bytes())
    assert f"{100 * report.baseline.quality.value:.2f} [" in stdout

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workdir}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("quantexp").experiment_id])
    assert run.info.status == "FAILED"
    assert "cannot be recorded" in run.data.tags["error"]


def test_a_result_that_cannot_be_printed_is_recorded_all_the_same(workdir: Path, cache: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as with `| head` that has seen enough
    sinks: dict[str, int | str] = {"pipe closed": writing, "not utf-8": os.devnull}
    if Path("/dev/full").exists():
        sinks["disk full"] = "/dev/full"

    def end(name: str) -> subprocess.CompletedProcess[str]:
        with open(sinks[name], "wb") as sink:  # noqa: PTH123 - one of them is no path
            return subprocess.run(
                [sys.executable, "-m", "quantexp", *SMALL, "quant=none", f"cache_dir={cache}"],
                stdout=sink,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
                env={**os.environ, "PYTHONIOENCODING": "ascii" if name == "not utf-8" else "utf-8"},
            )

    with ThreadPoolExecutor(len(sinks)) as pool:
        ends = dict(zip(sinks, pool.map(end, sinks), strict=True))
    assert [name for name, done in ends.items() if "Traceback" in done.stderr] == []
    reports = list(workdir.glob("mlartifacts/*/artifacts/report.json"))
    assert [json.loads(path.read_text())["quant"] for path in reports] == ["none"] * len(ends)
