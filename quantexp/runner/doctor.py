"""What works on this machine, and what makes its figures unreliable.

Each method is tried with the functions of a real run, on a toy task that is easy to learn: wrong kernels show in the
accuracy, and reference kernels, which are not made for this CPU, in the time.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from quantexp.config import METHODS, ByLayer, DataRequest, Device, Engine, Experiment, Mlp, NoQuant, Quant, Train
from quantexp.results import InputSpec
from quantexp.system.errors import BenchmarkError, QuantexpError, QuantizationError
from quantexp.system.terminal import err, show

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from quantexp.benchmark.noise import Load
    from quantexp.system.energy import Meter
    from quantexp.system.environment import Environment
    from quantexp.tasks.data import TaskData

FEATURES, WIDTH, CLASSES, EXAMPLES = 64, 1024, 4, 512  # so wide that the time is that of the kernels
BATCH = 64
RIGHT = 0.9  # share of the toy's examples; the float network predicts all of them right
SLOW = 5.0  # times the time of float; kernels that are made for the CPU are faster than that
LONGEST_NOTE = 300  # characters
LITTLE_MEMORY_GB = 2.0
UNKNOWN = "unknown"


def toy() -> TaskData:
    """Return points around one center for each class."""
    import torch

    from quantexp.tasks.data import TaskData, Tensors, calibration_split
    from quantexp.tasks.objectives.classification import Classification

    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(EXAMPLES) % CLASSES
    centers = torch.randn(CLASSES, FEATURES, generator=draw)
    points = Tensors(labels, (centers[labels] + 0.1 * torch.randn(EXAMPLES, FEATURES, generator=draw),))
    inputs = (InputSpec("point", (FEATURES,)),)
    calibration = calibration_split(points, points, DataRequest())
    return TaskData(points, calibration, points, inputs, CLASSES, Classification(CLASSES), "toy", "drawn")


@dataclass(frozen=True)
class Trial:
    """What was tried, whether it works here, and details or the reason."""

    what: str
    precision: str
    engine: str
    works: bool
    note: str


def examine() -> bool:
    """Print the machine, what works on it and what makes its figures unreliable; return whether float runs."""
    err().print("checking this machine ...")
    import psutil

    from quantexp.benchmark.noise import Clock
    from quantexp.system.energy import find
    from quantexp.system.environment import describe, load_average, threads

    clock = Clock()
    time.sleep(0.5)
    load, free_gb, times = clock.read(), psutil.virtual_memory().available / 1e9, psutil.cpu_times()
    environment = describe()
    show(_table("This machine", ("", ""), facts(environment, load_average(), free_gb, find())))
    err().print("trying each method, flow, precision and engine on a toy network ...")
    with threads(1), tempfile.TemporaryDirectory(prefix="quantexp-") as folder:  # more could wait for busy cores
        found = list(trials(folder, environment))
    rows = ((trial.what, trial.precision, trial.engine, "yes" if trial.works else "no", trial.note) for trial in found)
    show(_table("What works here", ("what", "precision", "engine", "works", "details"), rows))
    show(f"Works: runs in that precision and predicts correctly. Times are approximate: one thread, batch {BATCH}.\n")
    show("What makes figures unreliable here")
    stolen = getattr(times, "steal", 0.0) / sum(times)
    for sentence in concerns(environment, load, stolen, free_gb) or ["nothing found"]:
        show(f"- {sentence}")
    return found[0].works


def facts(
    environment: Environment, load: tuple[float, ...] | None, free_gb: float, meter: Meter
) -> Iterator[tuple[str, str]]:
    """Yield what this machine is: names and values."""
    quota = f", with a quota of {environment.cpu_quota:g}" if environment.cpu_quota else ""
    yield "CPU", environment.cpu
    yield "cores", f"{environment.cores}{quota}"
    yield "instruction sets", ", ".join(environment.instruction_sets) or UNKNOWN
    yield "caches", ", ".join(f"{name} {_binary(size)}" for name, size in environment.caches.items()) or UNKNOWN
    yield "governor", environment.governor or UNKNOWN
    yield "turbo", UNKNOWN if environment.turbo is None else "on" if environment.turbo else "off"
    yield "virtual machine", f"yes ({environment.virtual})" if environment.virtual else "not detected"
    yield "memory", f"{environment.memory_gb:g} GB, {free_gb:.1f} GB of it free"
    yield "load", f"{', '.join(map(str, load))} (mean of 1, 5 and 15 minutes)" if load else UNKNOWN
    yield "energy counter", meter.names or meter.missing
    yield "system", f"{environment.system}, Python {environment.python}"
    yield "packages", _named(environment.packages)
    yield "torch's build", _named(environment.torch_build)
    yield "int8 engines", ", ".join(environment.engines) or "none"
    yield "threads", f"{environment.training_threads} to train with, {environment.interop_threads} between operators"
    yield "waiting threads", _named(environment.openmp) or "spin (OpenMP's default; no variable is set)"
    yield "C++ compiler", environment.compiler or "none found for torch.compile"


def trials(folder: str, environment: Environment) -> Iterator[Trial]:
    """Try the float network first, then every method, flow, precision and engine, then the GPU and torch.compile."""
    for candidate in experiments(folder):
        method = f"{candidate.quant.name} {getattr(candidate.quant, 'flow', '')}".strip()
        yield attempt((method, str(candidate.precision), candidate.quant.packs_for or ""), partial(quantize, candidate))
    yield attempt(("training", "fp32", "GPU"), partial(train_on_gpu, folder))
    yield attempt(("torch.compile", "fp32", ""), partial(compile_float, folder, environment))


def experiments(folder: str) -> Iterator[Experiment]:
    """Yield one for each method, flow and precision, int8 with every engine; trained networks are kept in `folder`."""
    for method in METHODS:
        make: Any = method  # Quant itself has neither flow nor engine
        if not issubclass(method, ByLayer):
            yield from (experiment(folder, make(), precision) for precision in method.precisions)
            continue
        for flow, precisions in method.portable_flows().items():
            for precision in precisions:
                engines = list(Engine) if precision == "int8" and make(flow=flow).packs_for else [None]
                yield from (experiment(folder, make(flow=flow, engine=engine), precision) for engine in engines)


def experiment(folder: str, quant: Quant, precision: str, device: Device = Device.cpu) -> Experiment:
    """Return an experiment on the toy."""
    return Experiment(
        model=Mlp(hidden=[WIDTH, WIDTH]),
        quant=quant,
        precision=precision,
        cache_dir=folder,
        train=Train(epochs=1, device=device, threads=1),
    )


def attempt(what: tuple[str, str, str], work: Callable[[], str]) -> Trial:
    """Do `work`, which returns details; an error is the reason why it does not work."""
    try:
        return Trial(*what, True, work())
    except Exception as error:  # of torch, a kernel or a compiler: one line of it is shown
        kind = "" if isinstance(error, QuantexpError) else f"{type(error).__name__}: "
        return Trial(*what, False, " ".join(f"{kind}{error}".split())[:LONGEST_NOTE])


def quantize(candidate: Experiment) -> str:
    """Quantize and predict as a run does; return its time and, if it is not everything, the share that was quantized.

    Raises:
        QuantizationError: If the network is not what the method declares, or predicts wrongly.
    """
    from quantexp.quant.inspection.account import account
    from quantexp.quant.inspection.evidence import inspect, operators
    from quantexp.quant.methods import quantize as quantized_by
    from quantexp.quant.methods.work import Form, Work
    from quantexp.training.baseline import trained
    from quantexp.training.loop import outputs

    data, precision = toy(), str(candidate.precision)
    baseline = trained(candidate, data)  # trained in the first trial, then loaded
    quantized = quantized_by(candidate.quant, Work(baseline, data, candidate.train, Form(precision, data.example)))
    evidence = inspect(
        quantized,
        operators(quantized.model, data.example),
        candidate.quant.packs_for,
        account(baseline.model, data.example),
    )
    quality = data.objective.quality(outputs(quantized.model, data.test), data.test.labels)
    right = quality.value if quality else 0.0
    if right < RIGHT:
        raise QuantizationError(f"it runs, but only {right:.0%} of its predictions are right")
    if quantized.promise is None:
        return "the float network"
    if not candidate.quant.timed:
        return "simulated in float, so it has no time"
    times = _times_float(quantized.model, baseline.model, data)
    slow = "with slow reference kernels: " if times > SLOW else ""
    share = evidence.mac_share(precision)
    part = "" if share is None or share > 0.995 else f", {share:.0%} of the multiplications in {precision}"
    return f"{slow}{times:.1f} times the time of float{part}"


def train_on_gpu(folder: str) -> str:
    """Train the float network on the GPU; return the GPU's name. Raises TrainingError if there is none."""
    import torch

    from quantexp.training.baseline import trained

    trained(experiment(folder, NoQuant(), "fp32", Device.cuda), toy())
    return torch.cuda.get_device_name()


def compile_float(folder: str, environment: Environment) -> str:
    """Compile the float network; return how long that took. Raises BenchmarkError."""
    from quantexp.config import Compiled
    from quantexp.runtimes import prepare
    from quantexp.training.baseline import trained

    if environment.compiler is None:
        raise BenchmarkError("no C++ compiler was found; install one such as g++, or name yours in $CXX")
    err().print("compiling the float network with torch.compile, which can take 20 seconds ...")
    data = toy()
    network = trained(experiment(folder, NoQuant(), "fp32"), data).model
    seconds = prepare(Compiled(), network, data.test.first(BATCH)).seconds
    return f"compiled in {seconds:.0f} s, with the same outputs"


def concerns(environment: Environment, load: Load, stolen: float, free_gb: float) -> list[str]:
    """Return what makes figures from this machine unreliable, a sentence each.

    Args:
        environment: The machine.
        load: What other processes used just now.
        stolen: Share of the CPU time since boot that the hypervisor gave to others.
        free_gb: Free memory.
    """
    from quantexp.benchmark.noise import OTHERS_SHARE, STEAL_SHARE
    from quantexp.system.environment import FOR_PRECISION

    cores, quota, governor = environment.cores, environment.cpu_quota or math.inf, environment.governor
    busy, steal = load.others_load, max(load.steal, stolen)
    sets = set(environment.instruction_sets)  # empty if unknown: then there is nothing to say
    halves = [name for name in ("bf16", "fp16") if not sets & set(FOR_PRECISION[name])]
    steady = "or rely on speedups, which are paired, more than on latencies"
    checks = (
        (
            sets and not sets & set(FOR_PRECISION["int8"]),
            "The CPU has neither VNNI nor AMX: int8 gains less speed without them.",
        ),
        (sets and halves, f"The CPU has no instructions for {' and '.join(halves)}: they save memory and cost time."),
        (cores < 2, "There is only one core: the time of other processes counts as that of the networks."),
        (
            quota < cores,
            f"A quota of {quota:g} cores limits what runs on these {cores}: use no more threads than that.",
        ),
        (
            busy > OTHERS_SHARE * cores,
            f"Other processes use {busy:.1f} of {cores} cores now: end them before you measure.",
        ),
        (
            environment.virtual,
            "This is a virtual machine: others on its host can disturb timings without being visible here.",
        ),
        (steal > STEAL_SHARE, f"The hypervisor took {load.steal:.1%} of the CPU time now, {stolen:.1%} since boot."),
        (governor not in (None, "performance"), f"The governor is {governor}: set it to performance, {steady}."),
        (environment.turbo, f"Turbo is on, so the clock rate drops when the CPU gets warm: switch it off, {steady}."),
        (
            free_gb < LITTLE_MEMORY_GB,
            f"Only {free_gb:.1f} GB of memory are free: timings are useless if the system swaps.",
        ),
    )
    return [sentence for applies, sentence in checks if applies]


def _times_float(model: nn.Module, reference: nn.Module, data: TaskData) -> float:
    """Return the time of `model` over that of `reference`, each the shortest of some calls in turns."""
    import torch

    batch, least = data.test.first(BATCH), [math.inf, math.inf]
    with torch.inference_mode():
        for _ in range(8):
            for at, network in enumerate((model, reference)):
                started = time.perf_counter()
                network(*batch)
                least[at] = min(least[at], time.perf_counter() - started)
    return least[0] / least[1]


def _named(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _binary(size: int) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
