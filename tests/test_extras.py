"""What needs optional packages; `scripts/test extras` installs them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from quantexp.config import Local
from quantexp.tracking.store import open_store

Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.extras

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"


@pytest.mark.skipif(
    find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_joblib_launcher") is None,
    reason="hydra-joblib-launcher is not installed",
)
def test_the_classes_of_a_user_are_found_in_the_workers_of_a_sweep(workdir: Path, quantexp: Command) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in ("sentences", "averaged"):
        (workdir / f"{name}.py").write_text(text.split(f"# file: {name}.py\n")[1].split("```")[0], encoding="utf-8")
    done = quantexp(
        *("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "benchmark=quick", "batch_size=1"),
        *("task=custom", "task.target=sentences.Halves", "model=custom", "model.target=averaged.Averaged"),
        *("quant=none,dynamic", "data=full"),
        PYTHONUNBUFFERED="1",  # a process started anew: joblib's pool ends as Python does
    )
    assert done.returncode == 0, done.stderr
    store = open_store(Local())
    runs = store.client.search_runs([store.experiment_id], "params.quant != ''")
    assert sorted(run.data.params["quant"] for run in runs if run.info.status == "FINISHED") == ["dynamic", "none"]
