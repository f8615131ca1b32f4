"""Extra state is stored beside the tensors, and read without unpickling."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save

from quantexp.state.extra import tensors_only, with_extra


def test_extra_state_is_read_again_as_it_was_stored() -> None:
    state = {
        "weight": torch.arange(6.0).view(2, 3).T,
        "_extra_state": {"steps": [1, (2, 3.5)], "name": "text", "no": None},
    }
    read = with_extra(load(save(tensors_only(state))))
    assert torch.equal(read["weight"], state["weight"])
    assert read["_extra_state"] == state["_extra_state"]
    assert read.keys() == state.keys()


def test_a_state_of_tensors_has_no_other_entries() -> None:
    state = {"weight": torch.ones(2)}
    assert tensors_only(state).keys() == with_extra(tensors_only(state)).keys() == state.keys()


@pytest.mark.parametrize("extra", [math.sqrt, lambda: None])
def test_extra_state_that_only_unpickling_could_read_is_refused(extra: object) -> None:
    with pytest.raises(TypeError, match=r"extra state must be tensors, .* dicts of them, block\._extra_state is not"):
        tensors_only({"weight": torch.ones(2), "block._extra_state": extra})
