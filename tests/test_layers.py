"""Layers, where imports cannot show them: options name their implementations as text, which `resolve` imports."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import quantexp
from quantexp import config
from quantexp.config import OPTIONS, Model, Option, Quant, Runtime, Study, Task
from quantexp.system.implementation import resolve

PACKAGE = Path(quantexp.__file__).parent
FUNCTIONS = {  # that the modules of a group have
    Task: ("load", "inputs", "classes", "encode"),
    Model: ("build",),
    Quant: ("quantize", "skeleton"),
    Runtime: ("require", "prepare"),
    Study: (),
}
IMPLEMENTED = [(group, chosen) for group in FUNCTIONS for chosen in OPTIONS if issubclass(chosen, group)]
PLAIN = {"single"}  # the study that is a run itself


def heights() -> dict[str, int]:
    """The height of each layer, those that stand side by side alike, as import-linter holds them."""
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (one for one in settings["tool"]["importlinter"]["contracts"] if one["id"] == "layers")
    rows = [row.split(" | ") for row in reversed(contract["layers"])]
    return {name: height for height, row in enumerate(rows) for name in row}


HEIGHTS = heights()


def height(module: str) -> int:
    """How high a module of quantexp stands."""
    return HEIGHTS[module.split(".")[1]]


@dataclass(frozen=True)
class Resolving:
    """A call of `resolve`: where it stands, and the modules and functions that it may import."""

    module: str
    line: int
    targets: tuple[str, ...]


def resolving_calls() -> Iterator[Resolving]:
    """Find the calls of `resolve` in the package, and what the options that they are given name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = ".".join(("quantexp", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        if module != "quantexp.system.implementation" and _imports_resolve(tree):
            yield from calls_in(module, tree)


def calls_in(module: str, tree: ast.Module) -> Iterator[Resolving]:
    """Find the calls of `resolve` in the functions of a module."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "resolve":
                yield Resolving(module, call.lineno, tuple(_targets(call.args[0], function)))


def too_high(calls: Iterable[Resolving]) -> list[str]:
    """What is resolved from below it."""
    return [
        f"{call.module}:{call.line} resolves {target}"
        for call in calls
        for target in call.targets
        if target and height(target) > height(call.module)
    ]


def _imports_resolve(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.ImportFrom) and "resolve" in {alias.name for alias in node.names}
        for node in ast.walk(tree)
    )


def _targets(argument: ast.expr, function: ast.FunctionDef) -> Iterator[str]:
    """Yield what an argument of `resolve` can be: a text, or what each option of a group names."""
    if isinstance(argument, ast.Constant):
        yield str(argument.value)
        return
    assert isinstance(argument, ast.Attribute), "resolve takes an attribute of an option, such as task.implementation"
    group = _type(argument.value, function)
    if issubclass(group, Enum):
        yield from (getattr(member, argument.attr) for member in group)
        return
    yield from (getattr(chosen, argument.attr) for chosen in OPTIONS if issubclass(chosen, group))


def _type(expression: ast.expr, function: ast.FunctionDef) -> type:
    """The type of an argument of the function, or of a field of it, as it is annotated."""
    if isinstance(expression, ast.Attribute):
        found: Any = get_type_hints(_type(expression.value, function))[expression.attr]
        (named,) = (one for one in get_args(found) or (found,) if one is not type(None))  # it may be left open
        return named
    assert isinstance(expression, ast.Name)
    arguments = {one.arg: one.annotation for one in (*function.args.args, *function.args.kwonlyargs)}
    assigned = (node for node in ast.walk(function) if isinstance(node, ast.AnnAssign))
    annotations = {ast.unparse(node.target): node.annotation for node in assigned} | arguments
    annotation = annotations[expression.id]
    assert annotation is not None, f"{function.name} must say of which group its {expression.id} is"
    named: type = getattr(config, ast.unparse(annotation))
    return named


CALLS = list(resolving_calls())


def test_a_layer_resolves_only_what_stands_at_its_height_or_below() -> None:
    assert too_high(CALLS) == []


def test_what_a_layer_resolves_from_below_is_found() -> None:
    source = "def load(experiment: Experiment) -> None:\n    return resolve(experiment.{group}.implementation)\n"
    for group, lowest in (("task", "tasks"), ("model", "models"), ("quant", "quant"), ("runtime", "runtimes")):
        tree = ast.parse(source.format(group=group))
        assert too_high(calls_in(f"quantexp.{lowest}.somewhere", tree)) == []
        assert "quantexp.state.somewhere:2 resolves" in too_high(calls_in("quantexp.state.somewhere", tree))[0]


def test_every_group_with_implementations_is_resolved_somewhere_at_or_above_its_layer() -> None:
    resolved = {target for call in CALLS for target in call.targets}
    for group in (Task, Model, Quant, Runtime):
        named = {chosen.implementation for chosen in OPTIONS if issubclass(chosen, group)}
        assert named <= resolved, f"no call of resolve is seen that imports those of {group.group}"


@pytest.mark.parametrize(
    ("group", "chosen"), IMPLEMENTED, ids=[f"{group.group}={chosen.name}" for group, chosen in IMPLEMENTED]
)
def test_the_module_that_an_option_names_is_there_with_the_functions_of_its_group(
    group: type[Option], chosen: type[Option]
) -> None:
    if chosen.name in PLAIN:
        assert chosen.implementation == ""
        return
    module = resolve(chosen.implementation)
    if issubclass(chosen, Study):  # it names the generator itself
        assert f"{module.__module__}.{module.__qualname__}" == chosen.implementation
        return
    assert module.__name__ == chosen.implementation
    for name in FUNCTIONS[group]:
        assert callable(getattr(module, name)), f"{chosen.implementation} has no function {name}"


def test_what_finds_the_files_of_a_task_is_there() -> None:
    for task in (chosen for chosen in OPTIONS if issubclass(chosen, Task)):
        assert callable(resolve(task.sources))


def test_a_name_that_is_no_module_and_stands_in_none_is_an_error() -> None:
    with pytest.raises(AttributeError, match="absent"):
        resolve("quantexp.tasks.absent")
    with pytest.raises(ModuleNotFoundError, match=r"quantexp\.absent"):
        resolve("quantexp.absent.mnist")


def test_a_module_that_misses_something_itself_says_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_module_that_nobody_has\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        resolve("needs_more")


def test_configs_import_nothing_of_the_package_but_the_errors() -> None:
    imported = {
        name
        for path in (PACKAGE / "config").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _imported(node)
        if name.startswith("quantexp") and not name.startswith("quantexp.config")
    }
    assert imported == {"quantexp.system.errors"}


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
