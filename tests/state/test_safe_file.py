"""Tensors in a file of safetensors are read into the memory of a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quantexp.state.safe_file import DTYPES, SafeFile


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_is_read_into_a_place_of_its_shape_and_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.arange(60).view(3, 20).to(dtype)
    save_file({"first": torch.ones(7), "weight": values}, tmp_path / "some.safetensors")
    file, place = SafeFile(tmp_path / "some.safetensors"), torch.zeros(3, 20, dtype=dtype)
    assert file.read_into("weight", place)
    assert torch.equal(place, values)
    assert torch.equal(file["weight"], values)
    assert dict(file).keys() == {"first", "weight"}


@pytest.mark.parametrize(
    "place",
    [torch.zeros(20, 3), torch.zeros(3, 20, dtype=torch.int32), torch.zeros(20, 3).T, torch.zeros(1).expand(3, 20)],
    ids=["shape", "dtype", "transposed", "expanded"],
)
def test_a_place_of_another_form_is_left_alone(tmp_path: Path, place: torch.Tensor) -> None:
    save_file({"weight": torch.ones(3, 20), "count": torch.tensor(5.0)}, tmp_path / "some.safetensors")
    file = SafeFile(tmp_path / "some.safetensors")
    assert not file.read_into("weight", place)
    assert not place.any()
    assert not file.read_into("count", torch.zeros(()))


def test_a_file_that_was_cut_off_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_file({"weight": torch.ones(3, 20)}, path)
    file = SafeFile(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="ends within weight"):
        file.read_into("weight", torch.zeros(3, 20))
