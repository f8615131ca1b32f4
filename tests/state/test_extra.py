"""Extra state is stored beside the tensors, and read without unpickling."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save

from quantexp.state.extra import apart, tensors_only, with_extra


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


def test_tensors_are_stored_from_their_own_memory_and_only_copied_where_they_share_it() -> None:
    plain, tied = torch.arange(6.0), torch.ones(2, 3)
    found = apart({"plain": plain, "tied": tied, "again": tied, "part": plain[:2], "turned": tied.T, "one": plain[:0]})
    assert found["plain"].data_ptr() == plain.data_ptr()
    assert found["tied"].data_ptr() == tied.data_ptr()
    read = load(save(found))
    assert read["again"].tolist() == tied.tolist()
    assert read["part"].tolist() == [0.0, 1.0]
    assert read["turned"].tolist() == tied.T.tolist()
    assert read["one"].tolist() == []
