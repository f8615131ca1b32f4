"""Optional packages: they are looked for without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from quantexp.system.errors import ConfigError


def require(package: str, what: str) -> None:
    """Check that an optional package is installed. Raises ConfigError, which says how to get it."""
    if find_spec(package) is None:
        raise ConfigError(f"{what} needs the package {package}, which is not installed; run: pip install {package}")
