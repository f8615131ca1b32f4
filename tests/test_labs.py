"""The exercises of docs/labs.md: each command runs as it stands there, in their order."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quantexp import compare, report
from quantexp.config import Dynamic
from tests.runner.test_compare import record
from tests.test_docs import ROOT, commands

Command = Callable[..., "subprocess.CompletedProcess[str]"]
PAGE = ROOT / "docs" / "labs.md"
EXERCISES = re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_exercise_has_a_command_and_a_part_of_its_output() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert "    python -m quantexp" in section, section.splitlines()[0]
        assert "```" in section or "|" in section, section.splitlines()[0]


@pytest.mark.exhaustive  # five minutes
def test_the_commands_run_as_they_stand(
    workdir: Path, cache: Path, quantexp: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    (workdir / "nets.py").write_text(re.findall(r"```python\n# nets\.py\n(.*?)```", usage, re.DOTALL)[0], "utf-8")
    found = list(commands(PAGE))
    assert len(found) >= len(EXERCISES)
    for module, arguments in sorted(found, key=lambda command: command[0] != ""):  # those that read a store, last
        match module:
            case "":
                done = quantexp(*arguments)
                assert done.returncode == 0, f"{arguments}: {done.stderr}"
            case ".report":
                report.main(arguments)
            case ".compare":
                for store in map(Path, arguments):
                    store.parent.mkdir()
                    record(workdir / store, cache, store.parent.name, Dynamic())
                compare.main(arguments)
            case ".doctor":  # tests/runner/test_doctor.py
                assert not arguments
    assert "static" in capsys.readouterr().out
