"""The user's own classes and functions, found by their dotted path.

Importing a module runs its code, so this gets only names that the user typed or trusts.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quantexp.system.errors import ConfigError


def add_folder(folder: str | Path) -> None:
    """Make the modules of `folder` importable, after all others; those of the working directory often are already."""
    if (path := str(Path(folder).absolute())) not in sys.path:
        sys.path.append(path)


def check(setting: str, target: str) -> None:
    """Check that the module of a target exists, before anything heavy is imported. Raises ConfigError."""
    add_folder(Path.cwd())
    module = target.rpartition(".")[0]
    try:
        found = find_spec(module) is not None  # imports the parent packages, not the module
    except Exception as error:  # the user's packages can raise anything
        raise ConfigError(f"{setting}={target}: {module} cannot be found ({error}); correct the path") from error
    if not found:
        raise ConfigError(
            f"{setting}={target} must be importable, there is no module {module}; "
            "install it, or run quantexp in its folder"
        )


def find(setting: str, target: str) -> Any:
    """Import the class or function that `target` names, as package.module.Class. Raises ConfigError."""
    add_folder(Path.cwd())
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's code
        raise ConfigError(
            f"{setting}={target} must be importable, {module_name} is not ({type(error).__name__}: {error}); "
            "install it, or run quantexp in its folder"
        ) from error
    found = getattr(module, name, None)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        own = sorted(
            key
            for key, value in vars(module).items()
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module_name
        )
        fault = f"{name} is neither" if hasattr(module, name) else f"there is no {name} in {module_name}"
        raise ConfigError(
            f"{setting}={target} must name a class or a function, {fault}; it has {', '.join(own) or 'none'}"
        )
    return found


def source_digest(target: Any) -> str:
    """Return a SHA-256 of the code of a class or function: of its file, or of the whole package if that is the user's.

    It is empty for code that is in no file.
    """
    try:
        file = Path(inspect.getfile(target))
        package = getattr(sys.modules.get(target.__module__.partition(".")[0]), "__path__", None)
        whole = package and not {"site-packages", "dist-packages"} & set(file.parts)
        files = sorted(Path(next(iter(package))).rglob("*.py")) if package and whole else [file]
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    except (OSError, TypeError):
        return ""
