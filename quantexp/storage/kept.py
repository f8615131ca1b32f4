"""A network stored in a temporary folder and read back, as a later `quantexp.load` will read it."""

from __future__ import annotations

import logging
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from quantexp.storage import stored
from quantexp.storage.recipe import Recipe
from quantexp.system.errors import CheckError, ModelError
from quantexp.system.garbage import collect_garbage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """The folder with the stored network, the network read from it, and the milliseconds to read it.

    All are None if the disk is full, or if only code of the user can rebuild the network.
    """

    folder: Path | None = None
    network: nn.Module | None = None
    load_ms: float | None = None


def keep(network: nn.Module, recipe: Recipe, stack: ExitStack, stored: list[Kept]) -> Kept:
    """Store a network until `stack` is closed, and read it back; without it the run continues.

    The result is added to `stored` without the network that was read: that is only compared, and takes as much memory
    as the one that was stored.

    Raises:
        CheckError: If the network cannot be stored, or what is stored cannot be read.
    """
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="quantexp-"))
    collect_garbage()
    found = _stored(Path(folder), network, recipe)
    stored.append(replace(found, network=None))
    return found


def _stored(folder: Path, network: nn.Module, recipe: Recipe) -> Kept:
    try:
        stored.save(folder, network, recipe)
        collect_garbage()  # of the state, before another network is built
        started = time.perf_counter()
        loaded = stored.load(folder, trust=True)  # this run has stored it
        return Kept(folder, loaded.network, (time.perf_counter() - started) * 1e3)
    except (OSError, stored.UnknownOptionError) as error:
        log.warning("the size of the stored network and its load time could not be measured: %s", error)
        return Kept()
    except Exception as error:  # torch and safetensors raise their own errors
        reason = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
        raise CheckError(
            "stored",
            f"a network must be stored and read back, which failed ({' '.join(reason.split())[:300]}); keep what it "
            "computes with in parameters and buffers",
        ) from error
