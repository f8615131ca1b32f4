"""Every example in docs/extending.md works, from files outside the package."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import quantexp
from quantexp.config import (
    CustomModel,
    CustomTask,
    Dynamic,
    Experiment,
    FakeQuant,
    Flow,
    Mlp,
    NoQuant,
    Qat,
    Quant,
    Static,
    Train,
)
from quantexp.models.mlp import MLP
from quantexp.quant.flows.working import working_copy
from quantexp.reports.findings import Findings
from quantexp.results.metrics import metrics
from quantexp.runner.single import run_single
from quantexp.runner.study import run_study
from quantexp.runner.tracked import Request
from quantexp.system.errors import QuantizationError
from quantexp.tracking.store import open_store

Sample = Callable[..., Experiment]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r"```python\n# file: (\w+)\.py\n(.*?)```", re.DOTALL)
SENTENCES = CustomTask(target="sentences.Halves")
AVERAGED = CustomModel(target="averaged.Averaged")
TOKENS: dict[str, Any] = {"task": SENTENCES, "model": AVERAGED, "train": Train(epochs=8, learning_rate=0.005)}
CHOICES = {"task": "custom", "model": "custom", "train": "default", "benchmark": "quick", "tracking": "local"}


@pytest.fixture
def examples(workdir: Path) -> Iterator[Path]:
    """The files of the page in the working directory, where a user's own lie."""
    written = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    assert len(written) == 7
    for name, text in written.items():
        (workdir / f"{name}.py").write_text(text, encoding="utf-8")
    yield workdir
    for name in written:
        sys.modules.pop(name, None)
    if str(workdir) in sys.path:
        sys.path.remove(str(workdir))


def request(experiment: Experiment, **changes: Any) -> Request:
    """As the command asks for a run."""
    return Request({**CHOICES, "quant": experiment.quant.name, "study": experiment.study.name}, [], "", **changes)


METHODS: dict[str, tuple[Quant, str]] = {
    "none": (NoQuant(), "fp32"),
    "none bf16": (NoQuant(), "bf16"),
    "dynamic eager": (Dynamic(), "int8"),
    "dynamic fx": (Dynamic(flow=Flow.fx), "int8"),
    "dynamic pt2e": (Dynamic(flow=Flow.pt2e), "int8"),
    "static fx": (Static(), "int8"),
    "static pt2e": (Static(flow=Flow.pt2e), "int8"),
    "qat fx": (Qat(), "int8"),
    "qat pt2e": (Qat(flow=Flow.pt2e), "int8"),
    "fake_quant": (FakeQuant(weight_bits=8), "simulated"),
}
QUICK = ("dynamic eager", "static fx", "static pt2e")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quant", "precision"),
    [
        pytest.param(*case, id=name, marks=[] if name in QUICK else pytest.mark.exhaustive)
        for name, case in METHODS.items()
    ],
)
def test_a_task_of_two_tensors_and_its_network_are_run_recorded_and_loaded_with_equal_outputs(
    sample: Sample, examples: Path, quant: Quant, precision: str
) -> None:
    experiment = sample(**TOKENS, data="full", quant=quant, precision=precision)
    result = run_single(experiment, request(experiment, quiet=True))
    assert result.report.baseline.quality is not None
    assert result.report.baseline.quality.value > 0.8  # chance is a half
    store = open_store(experiment.tracking)
    (run,) = store.client.search_runs([store.experiment_id])
    loaded = quantexp.load(run.info.run_id, trust=True)
    ids = torch.randint(0, 100, (5, 16), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(16) < torch.tensor([[16], [3], [9], [1], [12]])).to(torch.int64)
    with torch.no_grad():
        assert torch.equal(loaded(ids, mask), result.model(ids, mask))
    predictions = loaded.predict([[1, 2, 3], [99, 98]])
    assert [prediction.label for prediction in predictions] == [1, 0]


def test_eager_mode_refuses_a_network_that_multiplies_embeddings_and_names_a_flow_that_works(
    sample: Sample, examples: Path
) -> None:
    experiment = sample(**TOKENS, data="full", quant=Static(flow=Flow.eager))
    with pytest.raises(QuantizationError, match="use quant\\.flow=fx"):
        quantexp.run(experiment)


@pytest.mark.slow
def test_the_tokens_of_a_task_can_be_drawn_without_labels(sample: Sample, examples: Path) -> None:
    report = quantexp.run(sample(**TOKENS, data="synthetic", quant=Static())).report
    assert report.baseline.quality is None
    assert report.comparison is not None
    assert report.comparison.agreement > 0.9


def test_a_method_of_ones_own_is_inspected_like_ours(sample: Sample, examples: Path) -> None:
    sys.path.append(str(examples))
    from halves import Halves  # type: ignore[import-not-found]

    report = quantexp.run(sample(model=Mlp(hidden=[16]), quant=Halves())).report
    assert report.result.size.state_bytes < 0.7 * report.baseline.size.state_bytes
    assert {layer.precision for layer in report.result.evidence.layers} == {"fp16"}


def test_a_flow_of_ones_own_takes_the_place_of_ours(sample: Sample, examples: Path) -> None:
    sys.path.append(str(examples))
    from rowwise import RowwiseDynamic  # type: ignore[import-not-found]

    report = quantexp.run(sample(model=Mlp(hidden=[16]), quant=RowwiseDynamic())).report
    assert report.result.evidence.mac_share("int8") == 1


def test_a_runtime_of_ones_own_executes_both_networks(sample: Sample, examples: Path) -> None:
    sys.path.append(str(examples))
    from exported import Exported  # type: ignore[import-not-found]

    report = quantexp.run(sample(model=Mlp(hidden=[16]), quant=NoQuant(), precision="bf16", runtime=Exported())).report
    assert report.runtime == "exported"
    assert "speedup_over_eager_b1" in metrics(report)


def test_a_study_of_ones_own_is_run_and_recorded_with_its_variants(sample: Sample, examples: Path) -> None:
    sys.path.append(str(examples))
    from seeds import Seeds  # type: ignore[import-not-found]

    experiment = sample(model=Mlp(hidden=[16]), quant=NoQuant(), study=Seeds(seeds=2))
    found = run_study(experiment, request(experiment))
    assert isinstance(found, Findings)
    assert [row[0] for row in found.table.rows] == ["0", "1"]
    store = open_store(experiment.tracking)
    runs = store.client.search_runs([store.experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * 3


def test_an_objective_of_ones_own_gives_the_metric_its_name(sample: Sample, examples: Path) -> None:
    named = metrics(quantexp.run(sample(task=CustomTask(target="top_two.Digits"), data="full", quant=NoQuant())).report)
    assert named["top2"] >= 0.95
    assert "accuracy" not in named


def test_a_flow_of_the_user_may_write_into_the_weights_that_it_is_given(
    examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(examples)
    from rowwise import RowwiseDynamic  # type: ignore[import-not-found]

    network = MLP(30, [16], 4).eval()
    for option, shared in ((Dynamic(), True), (RowwiseDynamic(), False)):
        copied = working_copy(option, network)
        assert copied is not network
        memory = [[parameter.data_ptr() for parameter in one.parameters()] for one in (network, copied)]
        assert (memory[0] == memory[1]) == shared
