"""The docs agree with the package: commands compose, links exist, the page of options is current."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from quantexp.cli.compose import combinations, to_experiment
from quantexp.cli.options_page import options_page
from quantexp.cli.plan import plan
from quantexp.cli.schemas import conf_dir, register
from quantexp.compare import _parser as compare_parser
from quantexp.gate import _parser as gate_parser
from quantexp.register import _parser as register_parser
from quantexp.report import _parser as report_parser
from quantexp.reproduce import _parser as reproduce_parser
from quantexp.sync import _parser as sync_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(r"(?:\.venv/bin/)?python3? -m quantexp(\.\w+)?(?= |$)(.*)")
COMMENT = re.compile(r"\s{3,}\S.*$")  # what stands beside a command


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands that stand on lines of their own: the module's ending, and the arguments."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("    ") and (found := COMMAND.search(line)):
            yield found[1] or "", shlex.split(COMMENT.sub("", found[2]))


SHOWN = {  # each once
    " ".join([f"quantexp{module}", *arguments]): (module, arguments)
    for page in PAGES
    for module, arguments in commands(page)
}


@pytest.fixture(autouse=True)
def a_folder_with_the_classes_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter a folder with the files that docs/usage.md has the reader write."""
    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(# \w+\.py\n.*?)```", text, re.DOTALL):
        (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block, encoding="utf-8")
    monkeypatch.delenv("QUANTEXP_DATA_DIR", raising=False)
    monkeypatch.setattr("quantexp.runner.checks.check_inputs", lambda experiment: None)  # the data are the reader's
    monkeypatch.chdir(tmp_path)


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_the_page_of_options_is_current() -> None:
    shown = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert shown == options_page(), "run python -m quantexp.cli.options_page > docs/options.md"


@pytest.mark.slow
@pytest.mark.parametrize(("module", "arguments"), SHOWN.values(), ids=SHOWN)
def test_every_command_composes_to_what_can_be_run(module: str, arguments: list[str]) -> None:
    match module:
        case ".report":
            report_parser().parse_args(arguments)
        case ".compare":
            compare_parser().parse_args(arguments)
        case ".gate":
            gate_parser().parse_args(arguments)
        case ".register":
            register_parser().parse_args(arguments)
        case ".reproduce":
            reproduce_parser().parse_args(arguments)
        case ".sync":
            sync_parser().parse_args(arguments)
        case ".doctor":
            assert arguments in ([], ["--help"])
        case "" if "--help" not in arguments:
            check_run(arguments)


def check_run(arguments: list[str]) -> None:
    """Compose one run, or all runs of a sweep; those of a committed sweep are tested in tests/cli/test_conf.py."""
    overrides = [text for text in arguments if text != "-m"]
    of_hydra = [text for text in overrides if text.startswith(("hydra/", "hydra."))]
    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        if "-m" not in arguments:
            compose("config", overrides=of_hydra, return_hydra_config=True)
            to_experiment(compose("config", overrides=[text for text in overrides if text not in of_hydra]))
            return
        settings = [text for text in overrides if text.startswith("sweep.")]
        config = compose("config", overrides=[*settings, *of_hydra], return_hydra_config=True)
        config.hydra.overrides.task = [text for text in overrides if text not in of_hydra]
        assert plan(list(combinations(config)), skip_unsupported="sweep.unsupported=skip" in settings).runs > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_finds_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}, target
