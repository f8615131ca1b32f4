"""The network of a run in files of other programs, which give the same outputs without quantexp."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from quantexp.config import DataSource, Dynamic, Experiment, Flow, Lenet5, Mlp, NoQuant, OnnxRuntime, Paired, Static
from quantexp.export import FORMATS as CHOICES
from quantexp.export import main
from quantexp.mission import run
from quantexp.storage import stored
from quantexp.storage.export import FORMATS, INPUTS, OUTPUT, README, export
from quantexp.system.errors import ModelError

QUICK = Paired(placements=2, seconds=0.02)
NETWORKS = {
    "float": Experiment(quant=NoQuant(), model=Lenet5(), data=DataSource.sample, batch_size=[1], benchmark=QUICK),
    "qdq": Experiment(
        quant=Static(flow=Flow.pt2e),
        model=Mlp(hidden=[32]),
        runtime=OnnxRuntime(),
        data=DataSource.sample,
        batch_size=[1],
        benchmark=QUICK,
    ),
    "onnxruntime": Experiment(
        quant=Dynamic(flow=Flow.onnxruntime),
        model=Mlp(hidden=[32]),
        runtime=OnnxRuntime(),
        data=DataSource.sample,
        batch_size=[1],
        benchmark=QUICK,
    ),
    "fx": Experiment(
        quant=Static(flow=Flow.fx), model=Mlp(hidden=[32]), data=DataSource.sample, batch_size=[1], benchmark=QUICK
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A stored network of each kind."""
    made = {}
    for name, experiment in NETWORKS.items():
        result = run(experiment)
        made[name] = tmp_path_factory.mktemp(name) / "model"
        stored.save(made[name], result.model, result.recipe)
    return made


def test_the_command_offers_the_formats_that_there_are() -> None:
    assert tuple(FORMATS) == CHOICES


EXTRA = pytest.mark.extras
PAIRS = [
    ("float", "onnx"),
    ("qdq", "onnx"),
    ("float", "torch_export"),
    ("qdq", "torch_export"),
    pytest.param("float", "openvino", marks=EXTRA),
    pytest.param("qdq", "openvino", marks=EXTRA),
    pytest.param("float", "executorch", marks=EXTRA),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_the_lines_of_the_readme_give_the_recorded_output(
    folders: dict[str, Path], name: str, target: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    difference = export(folders[name], target, out, ["Accuracy: 97 %."])
    assert difference <= (0.05 if name == "qdq" else 1e-4) * np.abs(np.load(out / OUTPUT)).max()
    text = (out / README).read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "quantexp" not in lines and len([line for line in lines.splitlines() if line]) == 6
    assert "Accuracy: 97 %." in text and "| `x` | pixels | float32 | batch, " in text
    assert str(tmp_path) not in text, "no path of this machine"
    network = stored.load(folders[name]).network
    with torch.no_grad():
        expected = network(torch.from_numpy(np.load(out / INPUTS)["x"]))
    np.testing.assert_array_equal(np.load(out / OUTPUT), expected)


def test_a_network_that_onnx_runtime_quantized_is_written_as_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    export(folders["onnxruntime"], "onnx", tmp_path / "out", [])
    assert (tmp_path / "out" / "network.onnx").read_bytes() == (folders["onnxruntime"] / "network.onnx").read_bytes()
    with pytest.raises(ModelError, match=r"quant\.flow=onnxruntime made this one; use --to onnx or --to openvino"):
        export(folders["onnxruntime"], "torch_export", tmp_path / "other", [])


def test_kernels_of_pytorch_are_refused_with_what_to_do(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"quant=static precision=int8 quant.flow=fx runtime=eager\) was not: run it"):
        export(folders["fx"], "onnx", tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


@EXTRA
def test_executorch_takes_what_its_own_quantizer_made(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="runtime=onnxruntime\\) was not: run it again with runtime=executorch"):
        export(folders["qdq"], "executorch", tmp_path / "out", [])


def test_a_folder_with_files_is_not_overwritten(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="--out must be a folder that is new or empty"):
        export(folders["float"], "onnx", tmp_path, [])


def test_a_file_that_computes_something_else_is_an_error(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = stored.load(folders["float"]).network
    with torch.no_grad():
        next(other.parameters()).mul_(-1)
    form = FORMATS["onnx"]
    monkeypatch.setattr(
        "quantexp.storage.export.FORMATS",
        {**FORMATS, "onnx": type(form)(**{**vars(form), "write": lambda _, *rest: form.write(other, *rest)})},
    )
    with pytest.raises(ModelError, match=r"must give the outputs of the network up to .*; it did not: a difference of"):
        export(folders["float"], "onnx", tmp_path / "out", [])


def test_the_command_names_what_it_wrote_and_ends_with_one_for_what_it_cannot(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(folders["float"]), "--to", "onnx", "--out", str(tmp_path / "out")])
    assert "network.onnx" in (shown := capsys.readouterr().out) and "largest difference" in shown
    with pytest.raises(SystemExit, match="1"):
        main([str(folders["fx"]), "--to", "onnx", "--out", str(tmp_path / "other")])
    assert "quantexp.export: --to onnx writes float networks" in capsys.readouterr().err
