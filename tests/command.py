"""The command `python -m quantexp` without the seconds that Python takes to import torch and MLflow.

One process imports them and then forks for each command: `python -m tests.command` reads requests as lines of JSON
and answers each with the exit status.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PRELOADED = (
    "matplotlib.figure",
    "mlflow",
    "torch.ao.quantization.quantize_fx",
    "torchao.quantization",
    "quantexp.cli.hooks",
    "quantexp.mission",
    "quantexp.runner.single",
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
    from quantexp.system import openmp

    openmp.share_cores()  # before torch is imported, as the command does
    for name in PRELOADED:
        importlib.import_module(name)
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
    __main__.main()
    sys.exit()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve()
