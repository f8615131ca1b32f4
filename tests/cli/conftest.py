from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A folder of the user's own configs: a new group, and a new value of a group that there is."""
    for name, text in {"extra/five": "# @package _global_\nseed: 5\n", "train/slow": "epochs: 7\n"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).with_suffix(".yaml").write_text(text)
    return f"hydra.searchpath=[file://{tmp_path}]"
