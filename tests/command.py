"""The command `python -m quantexp` without the seconds that Python takes to import torch and MLflow.

One process imports them and then forks for each command: `python -m tests.command` reads requests as lines of JSON
and answers each with the exit status. Children end without taking apart what they share.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PRELOADED = (
    "hydra._internal.core_plugins.bash_completion",
    "hydra._internal.core_plugins.basic_launcher",
    "hydra._internal.core_plugins.basic_sweeper",
    "hydra._internal.hydra",
    "hydra.main",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "scipy.stats",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.ao.quantization.quantize_fx",
    "torchao.quantization",
    "torchao.quantization.pt2e.quantize_pt2e",
    "quantexp.cli.hooks",
    "quantexp.mission",
    "quantexp.quant.flows.pt2e",
    "quantexp.reports.plots",
    "quantexp.runner.single",
    "quantexp.runner.sweep",
    "quantexp.runner.tracked",
)


class CommandServer:
    """Runs commands in forks of one process, each in the current directory and environment of the caller."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.command"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def run(self, arguments: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with tempfile.TemporaryDirectory() as scratch:
            out, err = Path(scratch, "out"), Path(scratch, "err")
            request = {
                "arguments": list(arguments),
                "folder": str(Path.cwd()),
                "environment": dict(os.environ),
                "out": str(out),
                "err": str(err),
            }
            print(json.dumps(request), file=self._process.stdin, flush=True)
            child = int(self._process.stdout.readline())
            killer = threading.Timer(timeout, os.kill, (child, signal.SIGKILL))
            killer.start()
            status = int(self._process.stdout.readline())
            killer.cancel()
            printed = (path.read_text(encoding="utf-8", errors="replace") for path in (out, err))
            code = os.waitstatus_to_exitcode(status)
            if code == -signal.SIGKILL:
                raise subprocess.TimeoutExpired(list(arguments), timeout, *printed)
            return subprocess.CompletedProcess(list(arguments), code, *printed)


def _serve() -> None:
    import sqlalchemy.orm

    from quantexp.system import openmp

    openmp.share_cores()  # before torch is imported, as the command does
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # as the flows do, before they import torchao
    for name in PRELOADED:
        importlib.import_module(name)
    sqlalchemy.orm.configure_mappers()  # otherwise each child does that for MLflow's tables
    gc.collect()
    gc.freeze()  # otherwise the children's collector touches, and so copies, all that they share
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request)
        print(child, file=answers, flush=True)
        print(os.waitpid(child, 0)[1], file=answers, flush=True)


def _run(request: dict[str, object]) -> NoReturn:
    for place, descriptor in ((os.devnull, 0), (str(request["out"]), 1), (str(request["err"]), 2)):
        opened = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    os.chdir(str(request["folder"]))
    random.seed()
    from quantexp import __main__

    sys.argv = [str(__main__.__file__), *request["arguments"]]  # type: ignore[misc]
    sys.path[0] = str(request["folder"])
    status = 0
    try:
        __main__.main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # to take apart all that was imported would need more time than most commands


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve()
    os._exit(0)
