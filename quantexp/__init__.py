"""quantexp: what quantization costs and what it buys, for one model on your CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantexp.experiment import run
    from quantexp.storage import load

__version__ = "0.1.0"
__all__ = ["__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    """Import `load` and `run` when they are first used: both need torch, `--help` does not."""
    if name == "load":
        from quantexp.storage import load

        return load
    if name == "run":
        from quantexp.experiment import run

        return run
    raise AttributeError(f"module 'quantexp' has no attribute {name!r}")
