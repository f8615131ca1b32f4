"""Packages that are not always imported: optional ones, and what one of them logs when it is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from quantexp.system.errors import ConfigError


def require(package: str, what: str) -> None:
    """Check that an optional package is installed. Raises ConfigError, which says how to get it."""
    if find_spec(package) is None:
        raise ConfigError(f"{what} needs the package {package}, which is not installed; run: pip install {package}")


def require_extra(extra: str, what: str, *packages: str) -> None:
    """Check that the packages of an optional extra are installed. Raises ConfigError, which says how to get them."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ConfigError(
            f"{what} needs the extra {extra}, of which {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"not installed; run: pip install {' '.join(packages)}"
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Import or call packages without their warnings, and without the handlers of logs that they add."""
    before_torchao()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def before_torchao() -> None:
    """Hide the notice of torch to the developers of torchao, which an import of torchao or transformers logs."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # it registers an Enum in a deprecated way
