"""quantexp: what quantization costs and what it buys, for one model on your CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantexp.system.openmp import share_cores
from quantexp.system.version import __version__

if TYPE_CHECKING:
    from quantexp.mission import run
    from quantexp.storage.prediction import Prediction, StoredModel
    from quantexp.storage.stored import load

__all__ = ["Prediction", "StoredModel", "__version__", "load", "run", "share_cores"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used: `--help` does not."""
    if name == "load":
        from quantexp.storage.stored import load

        return load
    if name == "run":
        from quantexp.mission import run

        return run
    if name in ("Prediction", "StoredModel"):
        from quantexp.storage import prediction

        return getattr(prediction, name)
    raise AttributeError(f"module 'quantexp' has no attribute {name!r}")
