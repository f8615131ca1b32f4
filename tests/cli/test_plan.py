"""What a sweep runs of what it was asked for: all that exists, once; the rest is refused, or skipped and told."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from quantexp.cli.compose import Combination
from quantexp.cli.plan import plan
from quantexp.config import Flow, Static
from quantexp.runner.jobs import Plan
from quantexp.system.errors import ConfigError, Mismatch

Command = Callable[..., "subprocess.CompletedProcess[str]"]

QUICK = ("-m", "data=sample", "benchmark=quick", "batch_size=1", "task.hidden=[8]", "sweep.name=night")
PAIR = ("quant=static", "quant.flow=fx,torchao")
REASON = "quant.flow=torchao is not supported by quant=static"
LOG = "sweep     night: "


def combination(*overrides: str) -> Combination:
    """One job, as the command composes it."""
    from hydra import compose, initialize_config_dir

    from quantexp.cli.compose import choices_of
    from quantexp.cli.schemas import conf_dir, register

    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        config = compose("config", overrides=["data=sample", *overrides], return_hydra_config=True)
    return Combination(list(overrides), config, choices_of(config))


def planned(*jobs: Sequence[str], skip: bool = True) -> Plan:
    return plan([combination(*overrides) for overrides in jobs], skip_unsupported=skip)


def parent_in(folder: Path) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("quantexp").experiment_id
    (found,) = client.search_runs([experiment], "tags.`quantexp.kind` = 'sweep'")
    return found


# -- a mismatch, and what is none ------------------------------------------------------------------------


def test_a_flow_that_a_method_lacks_is_a_mismatch_whose_rule_begins_its_message() -> None:
    with pytest.raises(ConfigError) as error:
        Static(flow=Flow.torchao)
    (fault,) = error.value.mismatches
    assert fault.rule == REASON
    assert fault.startswith(f"{REASON}, which has fx, eager, pt2e, onnxruntime, nncf. All pairs: ")


def test_a_wrong_value_beside_a_mismatch_leaves_an_error_without_mismatches() -> None:
    assert ConfigError(Mismatch("a pair does not exist"), "seed must be at least 0").mismatches == ()
    assert ConfigError("seed must be at least 0").mismatches == ()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["quant=static", "quant.flow=torchao"], REASON),
        (["quant.flow=pt2e", "quant.engine=x86"], "quant.engine cannot be chosen in quant.flow=pt2e"),
        (["quant=static", "precision=fp16"], "precision=fp16 is not supported by quant=static"),
        (
            ["quant=dynamic", "quant.flow=pt2e", "precision=fp16"],
            "precision=fp16 is not supported by quant=dynamic in flow pt2e",
        ),
        (["task=sst2", "model=lenet5"], "model=lenet5 takes image, task=sst2 gives features or tokens"),
        (["model=lenet5", "task.crop=20"], "model=lenet5 takes images of 32x32"),
    ],
)
def test_what_does_not_exist_is_left_out_with_its_reason(overrides: list[str], reason: str) -> None:
    found = planned(overrides, ["quant=none"])
    assert (found.runs, found.equal) == (1, 0)
    (entry,) = found.unsupported
    assert (entry.asked, entry.reason) == (tuple(overrides), reason)
    assert entry.settings["quant"] == combination(*overrides).choices["quant"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("precision=fp17", "precision=fp17 is not supported by quant=static"),
        ("precision=8", "got the bare number 8"),
        ("seed=-1", "seed must be at least 0, got -1"),
        ("task.crop=5000", "task.crop must be at most 1024, got 5000"),
    ],
)
def test_a_wrong_value_is_an_error_even_if_what_does_not_exist_is_skipped(
    capsys: pytest.CaptureFixture[str], override: str, told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        planned(["quant=static", override], ["quant=static", "quant.flow=torchao"], ["quant=none"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in said
    assert "torchao" not in said


def test_a_sweep_of_which_nothing_exists_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        planned(["quant=static", "quant.flow=torchao"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{REASON}, which has fx, eager, pt2e" in said
    assert "sweep.unsupported" not in said


def test_equal_combinations_are_run_once() -> None:
    found = planned(
        ["quant.flow=fx"], ["quant.flow=fx", "quant.engine=x86"], ["seed=1"], ["quant.flow=torchao"], ["seed=1"]
    )
    assert (found.runs, found.equal) == (2, 2)  # static in fx without an engine is x86
    assert str(found) == "2 combinations; left out: 2 equal to another, 1 not supported"


def test_combinations_that_keep_their_models_elsewhere_are_not_equal() -> None:
    assert planned(["cache_dir=a"], ["cache_dir=b"]).runs == 2


# -- the command -----------------------------------------------------------------------------------------


def test_a_sweep_that_asks_for_what_does_not_exist_is_refused_and_told_how_to_skip_it(
    workdir: Path, quantexp: Command
) -> None:
    done = quantexp(*QUICK, *PAIR)
    assert done.returncode == 2
    assert f"{REASON}, which has fx, eager, pt2e" in done.stderr
    assert "To skip what is not supported and run the rest: sweep.unsupported=skip" in done.stderr
    assert not (workdir / "multirun").exists()


@pytest.mark.slow
def test_what_does_not_exist_is_skipped_and_kept_with_its_reason(workdir: Path, quantexp: Command) -> None:
    first = quantexp(*QUICK, *PAIR, "sweep.unsupported=skip")
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith(f"{LOG}1 combinations; left out: 1 not supported\n")
    assert first.stderr.count("\nrun ") == 1
    assert not (workdir / "multirun" / "night" / "1").exists()

    parent, report = parent_in(workdir), workdir / "multirun" / "night"
    assert parent.info.status == "FINISHED"
    assert {name: parent.data.metrics[name] for name in ("done", "failed", "left", "unsupported")} == {
        "done": 1,
        "failed": 0,
        "left": 0,
        "unsupported": 1,
    }
    stored = workdir / "mlartifacts" / parent.info.run_id / "artifacts" / "unsupported.json"
    (kept,) = json.loads(stored.read_text(encoding="utf-8"))
    assert kept["reason"] == REASON
    assert "quant.flow=torchao" in kept["asked"]
    with (report / "full.csv").open(encoding="utf-8", newline="") as file:
        made, missing = csv.DictReader(file)
    assert (made["unsupported"], missing["unsupported"], missing["quant"], missing["run"]) == ("", REASON, "static", "")
    assert f"<td>{REASON}</td>" in (report / "report.html").read_text(encoding="utf-8")
    assert f"| {REASON} | 1 |" in (report / "networks.md").read_text(encoding="utf-8")

    # Typed again with one more seed, it runs that alone, and knows of what did not exist before.
    again = quantexp(*QUICK, *PAIR, "sweep.unsupported=skip", "seed=0,1")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("skip      finished before") == 1
    assert [line.split()[1] for line in again.stderr.splitlines() if line.startswith("run ")] == ["1", "2"]
    assert parent_in(workdir).data.metrics["unsupported"] == 2  # seed=0 is what was asked for before
    assert "2 further combinations are not supported" in " ".join(again.stdout.split())
