"""The doctor: run once as a stranger would, its judgements on machines that are made up."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from quantexp.benchmark.noise import Load
from quantexp.config import METHODS, ByLayer, Dynamic, Engine, NoQuant
from quantexp.quant import engine as engines
from quantexp.quant.inspection.promise import Quantized
from quantexp.quant.methods.work import Work
from quantexp.runner import doctor
from quantexp.runner.doctor import attempt, concerns, experiment, experiments, facts
from quantexp.system.energy import Counter, Meter
from quantexp.system.environment import Environment, describe
from quantexp.system.errors import QuantizationError

pytestmark = pytest.mark.slow

QUIET = Load(seconds=0.5, cores_used=0.1, others_load=0.0, steal=0.0)


class Deaf(NoQuant):
    """Leaves a network that says the same to every input."""

    implementation: ClassVar[str] = __name__


def quantize(option: Deaf, work: Work) -> Quantized:
    """Return the float network with zeros for its parameters."""
    network = copy.deepcopy(work.baseline.model)
    network.load_state_dict({name: torch.zeros_like(value) for name, value in network.state_dict().items()})
    return Quantized(network, None)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the toy's network small: where nothing is timed it need not be wide."""
    monkeypatch.setattr(doctor, "WIDTH", 8)


@pytest.fixture
def steady() -> Environment:
    """A machine that nothing speaks against."""
    return replace(
        describe(),
        cores=8,
        cpu_quota=None,
        instruction_sets=("avx2", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        governor="performance",
        turbo=False,
        virtual=None,
    )


def test_the_doctor_names_the_machine_and_says_of_everything_whether_it_works() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quantexp.doctor"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "CXX": "no-such-compiler"},  # compiling takes longer than all the rest
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    tried = {row[0] for row in rows if "yes" in row or "no" in row}
    assert describe().cpu in done.stdout
    assert ["none", "fp32", "yes", "the", "float", "network"] in rows
    assert {method.name for method in METHODS} | {"training", "torch.compile"} <= tried
    assert "no C++ compiler was found" in done.stdout
    assert [row for row in rows if row[:2] == ["energy", "counter"]]
    assert done.stdout.splitlines()[-1].startswith("- ")
    assert "Traceback" not in done.stderr
    assert "arning" not in done.stderr


def test_help_is_one_paragraph_and_needs_no_torch() -> None:
    code = "import sys; from quantexp.doctor import main; main(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m quantexp.doctor\n")


def test_an_argument_is_refused_with_what_was_given() -> None:
    command = [sys.executable, "-m", "quantexp.doctor", "quant=qat"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "takes no arguments, got quant=qat" in done.stderr


def test_every_method_flow_and_precision_is_tried_and_int8_with_every_engine(tmp_path: Path) -> None:
    tried = [
        (one.quant.name, getattr(one.quant, "flow", None), one.precision, one.quant.packs_for)
        for one in experiments(str(tmp_path))
    ]
    by_layer = [method for method in METHODS if issubclass(method, ByLayer)]
    assert {one[:3] for one in tried} == {
        *(
            (method.name, None, precision)
            for method in METHODS
            for precision in method.precisions
            if method not in by_layer
        ),
        *((method.name, *pair) for method in by_layer for pair in pairs(method)),
    }
    for method in ("dynamic", "static", "qat"):
        for flow in ("fx", "eager"):
            assert [one[3] for one in tried if one[:3] == (method, flow, "int8")] == list(Engine)
    assert tried[0][:3] == ("none", None, "fp32")  # the exit status is that of the first


def pairs(method: type[ByLayer]) -> list[tuple[str, str]]:
    return [(flow, precision) for flow, precisions in method.portable_flows().items() for precision in precisions]


def test_an_engine_that_this_torch_lacks_does_not_work_and_the_row_says_which_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    monkeypatch.setattr(engines, "supported_engines", lambda: ["onednn"])
    lacking = experiment(str(tmp_path), Dynamic(engine=Engine.fbgemm), "int8")
    trial = attempt(("dynamic", "int8", "fbgemm"), lambda: doctor.quantize(lacking))
    assert not trial.works
    assert trial.note == "quant.engine must be supported on this machine, got fbgemm; use one of onednn"


def test_a_method_that_runs_and_predicts_wrongly_does_not_work(tmp_path: Path, small: None) -> None:
    trial = attempt(("none", "fp32", ""), lambda: doctor.quantize(experiment(str(tmp_path), Deaf(), "fp32")))
    assert not trial.works
    assert trial.note == "it runs, but only 25% of its predictions are right"


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (RuntimeError("no kernel\n  for this CPU"), "RuntimeError: no kernel for this CPU"),
        (QuantizationError("what to repair"), "what to repair"),
    ],
    ids=["unexpected", "ours"],
)
def test_whatever_a_trial_raises_becomes_one_line(error: Exception, note: str) -> None:
    def fail() -> str:
        raise error

    trial = attempt(("a", "b", "c"), fail)
    assert (trial.works, trial.note) == (False, note)


@pytest.mark.parametrize(
    ("meter", "said"),
    [
        (Meter((Counter("package-0", Path("a"), 9), Counter("package-1", Path("b"), 9))), "package-0, package-1"),
        (Meter((), "there is no counter; load its driver"), "there is no counter; load its driver"),
    ],
    ids=["counters", "none"],
)
def test_the_energy_counter_is_named_or_the_reason_why_there_is_none(
    steady: Environment, meter: Meter, said: str
) -> None:
    assert dict(facts(steady, None, 16.0, meter))["energy counter"] == said


def test_nothing_is_said_against_a_steady_machine(steady: Environment) -> None:
    assert concerns(steady, QUIET, 0.0, 16.0) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"instruction_sets": ("avx2", "avx512_bf16", "avx512_fp16")}, "neither VNNI nor AMX"),
        ({"instruction_sets": ("avx2", "avx_vnni")}, "no instructions for bf16 and fp16"),
        ({"instruction_sets": ("amx_int8", "amx_bf16")}, "no instructions for fp16"),
        ({"cores": 1}, "only one core"),
        ({"cpu_quota": 1.5}, "A quota of 1.5 cores limits what runs on these 8"),
        ({"virtual": "QEMU"}, "virtual machine"),
        ({"governor": "powersave"}, "The governor is powersave"),
        ({"turbo": True}, "Turbo is on"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_speaks_against_a_machine_is_said(steady: Environment, changes: dict[str, object], said: str) -> None:
    (sentence,) = concerns(replace(steady, **changes), QUIET, 0.0, 16.0)  # type: ignore[arg-type]
    assert said in sentence


@pytest.mark.parametrize(
    ("load", "stolen", "free_gb", "said"),
    [
        (replace(QUIET, others_load=3.2), 0.0, 16.0, "Other processes use 3.2 of 8 cores now"),
        (replace(QUIET, steal=0.05), 0.0, 16.0, "took 5.0% of the CPU time now, 0.0% since boot"),
        (QUIET, 0.04, 16.0, "took 0.0% of the CPU time now, 4.0% since boot"),
        (QUIET, 0.0, 0.5, "Only 0.5 GB of memory"),
    ],
    ids=["others", "steal", "stolen", "memory"],
)
def test_what_goes_on_beside_is_said(steady: Environment, load: Load, stolen: float, free_gb: float, said: str) -> None:
    (sentence,) = concerns(steady, load, stolen, free_gb)
    assert said in sentence


def test_a_cpu_whose_instruction_sets_cannot_be_told_is_not_accused(steady: Environment) -> None:
    assert concerns(replace(steady, instruction_sets=()), QUIET, 0.0, 16.0) == []


def test_a_quota_that_covers_the_cores_is_no_concern(steady: Environment) -> None:
    assert concerns(replace(steady, cpu_quota=8.0), QUIET, 0.0, 16.0) == []
