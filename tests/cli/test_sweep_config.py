"""A sweep is planned as its jobs are composed, and whatever goes wrong while it is checked ends the command."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from quantexp.__main__ import _flags_first
from quantexp.cli import hooks
from quantexp.cli.compose import as_typed, combinations, explain, misread, swept_settings, to_experiment
from quantexp.cli.hooks import Hooks
from quantexp.cli.plan import plan
from quantexp.config import Experiment


@contextmanager
def master(*overrides: str, more: Sequence[str] = ()) -> Iterator[DictConfig]:
    """The config of a sweep as Hydra composes it before the first job; `more` are Hydra's own overrides."""
    from hydra import compose, initialize_config_dir

    from quantexp.cli.schemas import conf_dir, register

    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        config = compose("config", overrides=[*more], return_hydra_config=True)
        config.hydra.overrides.task = ["data=sample", *overrides]
        yield config


def experiments(*overrides: str, more: Sequence[str] = ()) -> list[Experiment]:
    with master(*overrides, more=more) as config:
        return [to_experiment(job.config) for job in combinations(config)]


# -- composed like the jobs ------------------------------------------------------------------------------


def test_a_plan_has_the_groups_of_the_users_searchpath(own: str) -> None:
    assert [each.seed for each in experiments("+extra=five", "quant=dynamic,none", more=[own])] == [5, 5]


def test_a_plan_has_the_values_of_the_users_searchpath_among_those_that_are_swept(own: str) -> None:
    assert next(each.train.epochs for each in experiments("train=slow,default", more=[own])) == 7


def test_a_plan_has_what_a_job_has_of_hydra() -> None:
    first, second = experiments("seed=${hydra:job.num}", "quant=dynamic,none")
    assert (first.seed, second.seed) == (0, 1)
    here = experiments("data_dir=${hydra:runtime.cwd}", "quant=none")
    assert here[0].data_dir == str(Path.cwd())
    (folder,) = experiments(
        "cache_dir=${hydra:runtime.output_dir}", more=["hydra.sweep.dir=/x", "hydra.sweep.subdir=y"]
    )
    assert folder.cache_dir == "/x/y"


def test_a_value_may_name_another_setting() -> None:
    assert [each.train.batch_size for each in experiments("train.batch_size=${seed}", "seed=8,9")] == [8, 9]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("data=sample --config-dir more -m seed=1", "--config-dir more -m data=sample seed=1"),
        ("seed=1,2 --multirun", "--multirun seed=1,2"),
        ("seed=1 -cd=more", "-cd=more seed=1"),
        ("seed=1 --config-name other quant=none", "--config-name other seed=1 quant=none"),
    ],
)
def test_flags_may_stand_anywhere(given: str, expected: str) -> None:
    assert _flags_first(given.split()) == expected.split()


def test_overrides_are_recorded_as_they_were_typed() -> None:
    assert as_typed(r"train.batch_size=$\{seed\}") == "train.batch_size=${seed}"
    assert as_typed(r"data_dir=$\{oc.env\:HOME\}") == "data_dir=${oc.env:HOME}"
    assert as_typed(r"data_dir=/a\ b") == r"data_dir=/a\ b"


# -- matched by configuration ----------------------------------------------------------------------------


def test_a_shuffled_sweep_plans_each_combination_once() -> None:
    plans = []
    for _ in range(5):
        with master("seed=shuffle(0,0,1,2,3)") as config:
            plans.append(plan(combinations(config)))
    assert {tuple(sorted(each.combinations or {})) for each in plans} == {tuple(sorted(plans[0].combinations or {}))}
    assert {(each.runs, each.equal) for each in plans} == {(4, 1)}


def test_a_plan_names_each_folder_in_which_results_of_its_jobs_wait() -> None:
    with master("cache_dir=a,b", "seed=0,1") as config:
        assert plan(combinations(config)).kept_in == ("a", "b")


# -- what must not vary ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    ["sweep.name=a,b", "tracking.experiment=a,b", "tracking=local,server", "sweep.retry=choice(failed)",
     "tracking.uri='sqlite:///a','sqlite:///b'"],
)  # fmt: skip
def test_what_a_sweep_has_once_must_not_vary(override: str) -> None:
    with master(override) as config:
        (fault,) = swept_settings(config)
    assert "must be the same in all jobs of a sweep" in fault
    assert override in fault


def test_what_a_sweep_has_once_must_not_vary_by_presets_either(capsys: pytest.CaptureFixture[str]) -> None:
    from quantexp.config import SweepSettings
    from quantexp.config.tracking import Local
    from quantexp.runner.jobs import fixed_settings

    fixed = fixed_settings(Local(), SweepSettings(name="night"))
    with master("experiment=lab") as config, pytest.raises(SystemExit) as ended:
        plan(combinations(config), fixed=fixed)
    assert ended.value.code == 2
    assert "sweep.name must be the same in all jobs of a sweep" in capsys.readouterr().err


# -- names that Hydra reads as numbers, values that it cannot read ---------------------------------------


@pytest.mark.parametrize("text", ["1e5", "2024_01_05", "1_000", "true", "1.50", "+5", "-0", "1E3", "NaN", "Inf"])
@pytest.mark.parametrize("setting", ["sweep.name", "tracking.experiment", "train.checkpoint"])
def test_a_text_that_is_read_as_another_is_refused(text: str, setting: str) -> None:
    with master(f"{setting}={text}", more=[f"{setting}={text}"]) as config:
        (fault,) = misread(config)
    assert fault.endswith(f"quote it: '{setting}=\"{text}\"'")


@pytest.mark.parametrize(
    "text", ["2024", "007", "1.5", "on", "night", "'1e5'", '"1.50"', "0x10", "2024-01-05", "12:30", "1__0"]
)
def test_a_text_that_is_read_as_typed_is_accepted(text: str) -> None:
    asked = [f"sweep.name={text}", "seed=1_0", "quant=none"]
    with master(*asked, "train.epochs=1,2", more=asked) as config:
        assert list(misread(config)) == []
        assert config.sweep.name == text.strip("'\"")


@pytest.mark.parametrize("value", ["/a=b", "/a(1)", "/a{b", "it's", "/a[1]=2", "/runs/lr=0.1,seed=2", "/a b=(c)"])
def test_a_value_that_hydra_cannot_read_is_shown_in_quotes(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    with pytest.raises(OverrideParseException) as error:
        OverridesParser.create().parse_overrides([f"data_dir={value}"])
    said = explain(error.value)
    assert "needs quotes" in said
    assert f'data_dir="{value}"' in said.replace("'\"'\"'", "'")


# -- checks that do not switch off -----------------------------------------------------------------------


@pytest.mark.parametrize("hook", [Hooks().on_run_start, Hooks().on_multirun_start])
def test_any_error_while_checking_ends_the_command(
    hook: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(hooks, "plan", broken)
    with master() as config, pytest.raises(SystemExit) as ended:
        hook(copy.deepcopy(config))
    assert ended.value.code == 1
    assert "internal error; please report it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override",
    ["train.checkpoint=" + 300 * "a", "train.checkpoint=" + 5000 * "a/", "data_dir=${nope}", "seed=${hydra:nope}"],
    ids=["name", "path", "setting", "hydra"],
)
def test_a_value_that_cannot_be_checked_ends_the_command(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    with master(override, "quant=none") as config, pytest.raises(SystemExit) as ended:
        plan(combinations(config))
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_whose_check_was_removed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from hydra.core.hydra_config import HydraConfig

    with master() as config:
        HydraConfig.instance().set_config(config)
        try:
            with pytest.raises(SystemExit) as ended:
                hooks.job(config)
        finally:
            HydraConfig.instance().cfg = None
    assert ended.value.code == 2
    assert "hydra.callbacks.quantexp" in capsys.readouterr().err
