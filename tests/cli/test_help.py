"""`--help` tells all that can be set, and is quick because it imports little."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from enum import Enum
from itertools import takewhile
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig

from quantexp.cli.help import WIDTH, help_text
from quantexp.cli.schemas import conf_dir, register
from quantexp.config import OPTIONS

GROUPS = sorted({*(option.group for option in OPTIONS), "experiment"})
HEAVY = {"torch", "mlflow", "torchvision", "datasets", "sklearn", "scipy", "rich"}


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def sections() -> dict[str, list[str]]:
    """Return the first words of the lines of each group's part of the help."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in help_text().splitlines():
        if line and not line.startswith(" "):
            current = line.split("=")[0] if "|" in line or line.split("=")[0] in GROUPS else ""
        elif line.strip() and current:
            found.setdefault(current, []).append(line.split()[0])
    return found


def typed(key: str, value: Any) -> str:
    """Return a setting as one would type it."""
    if value is None:
        return f"{key}=null"
    if isinstance(value, list | ListConfig):
        return f"{key}=[{','.join(typed('', one)[1:] for one in value)}]"
    if isinstance(value, bool):
        return f"{key}={'true' if value else 'false'}"
    return f"{key}={value.value if isinstance(value, Enum) else value}"


@pytest.fixture(autouse=True)
def no_defaults_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("QUANTEXP_DATA_DIR", raising=False)


def test_every_group_has_a_part() -> None:
    committed = {path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"}
    assert set(sections()) == committed == set(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_every_committed_value_is_in_the_heading_and_has_an_entry(group: str) -> None:
    names = {path.stem for path in (conf_dir() / group).glob("*.yaml")}
    [heading] = [line for line in help_text().splitlines() if line.startswith(f"{group}=")]
    assert set(heading.removeprefix(f"{group}=").split("|")) == names
    for name in names:
        assert sections()[group].count(f"{group}={name}") == 1


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.group}={option.name}")
def test_every_setting_of_an_option_stands_there_with_the_default_it_composes_to(option: Any) -> None:
    settings = composed(f"{option.group}={option.name}")[option.group]
    listed = sections()[option.group]
    for key, value in settings.items():
        assert typed(f"{option.group}.{key}", value) in listed


def test_every_setting_of_a_run_stands_there_with_the_default_it_composes_to() -> None:
    settings = {key: value for key, value in composed().items() if key not in (*GROUPS, "sweep")}
    assert list(settings) == [
        *("precision", "batch_size", "data", "data_dir", "cache_dir"),
        *("validation", "evaluation", "evaluation_examples", "seed"),
    ]
    first_words = [line.split()[0] for line in help_text().splitlines() if line.startswith("  ")]
    for key, value in settings.items():
        assert typed(str(key), value) in first_words


def test_the_settings_of_a_sweep_stand_apart() -> None:
    lines = help_text().splitlines()
    part = lines[lines.index("settings of a sweep (with -m)") :]
    first_words = [line.split()[0] for line in part[: part.index(next(line for line in part if "|" in line))] if line]
    for entry in ("sweep.name=null", "sweep.resume=true", "sweep.retry=unfinished"):
        assert entry in first_words


@pytest.mark.parametrize(
    "entry",
    [
        "seed=0",
        "batch_size=[1,64]",
        "task.crop=null",
        "quant.freeze_after=0.5",
        "quant.epochs=null",
        "train.device=auto",
        "benchmark.memory=false",
        "benchmark.runtimes=[]",
    ],
)
def test_some_settings_read_as_one_would_type_them(entry: str) -> None:
    assert any(line.strip().startswith(f"{entry} ") for line in help_text().splitlines())


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.group}={option.name}")
def test_every_setting_of_an_option_is_named_below_it_even_if_it_is_explained_above(option: Any) -> None:
    text = help_text()
    part = text[text.index(f"\n  {option.group}={option.name} ") + 1 :]
    below = "\n".join(takewhile(lambda line: line.startswith("    "), part.splitlines()[1:]))
    for field in dataclasses.fields(option):
        if "help" in field.metadata:
            assert re.search(rf"\b{field.name}\b", below)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.group}={option.name}")
def test_what_an_option_is_for_stands_beside_it(option: Any) -> None:
    first_words = " ".join((option.__doc__ or "").split()[:4])
    assert any(
        line.split()[0] == f"{option.group}={option.name}" and first_words in line
        for line in help_text().splitlines()
        if line.startswith("  ")
    )


def test_a_preset_is_explained_by_the_comment_in_its_file() -> None:
    [line] = [line for line in help_text().splitlines() if line.startswith("  benchmark=quick")]
    assert line.split(maxsplit=1)[1].startswith("For tests and a first look")


def test_a_study_is_explained_by_the_comment_behind_hydras_own() -> None:
    [line] = [line for line in help_text().splitlines() if line.startswith("  experiment=lab ")]
    assert line.split(maxsplit=1)[1].startswith("The whole lab")
    assert "@package" not in help_text()


def test_the_precisions_of_each_method_are_named() -> None:
    flowing = " ".join(help_text().split())
    for precisions in ("fp32, bf16, fp16", "int8, fp16", "int8", "bf16, fp16"):
        assert f"Precision: {precisions}." in flowing


def test_names_that_a_setting_takes_are_listed() -> None:
    flowing = " ".join(help_text().split())
    assert "library of int8 kernels: x86, fbgemm, onednn, qnnpack" in flowing
    assert "how the ranges of activations are chosen: histogram, minmax, moving_average" in flowing
    assert "per_channel or per_tensor" in flowing


def test_no_line_is_wider_than_the_page() -> None:
    indented = [line for line in help_text().splitlines() if line.startswith("    ")]
    assert max(map(len, indented)) <= WIDTH


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_flag_prints_the_help(flag: str) -> None:
    done = subprocess.run([sys.executable, "-m", "quantexp", flag], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout == help_text() + "\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "module",
    ["quantexp.config", "quantexp.cli.compose", "quantexp.cli.hooks", "quantexp.cli.help", "quantexp.tasks.sources"],
)
def test_what_is_imported_before_a_run_starts_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    imported = set(done.stdout.split())
    assert "quantexp" in imported
    assert imported & HEAVY == set()


def test_the_help_can_be_cut_off_by_its_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does when it has enough
    command = [sys.executable, "-m", "quantexp", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
