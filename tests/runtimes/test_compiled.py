from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from quantexp.config import Experiment, FloatModel, NoQuant, Paired, Static
from quantexp.mission import run
from quantexp.models.mlp import MLP
from quantexp.results.metrics import metrics
from quantexp.runtimes.compiled import compiled
from quantexp.system.environment import compiler
from quantexp.system.errors import BenchmarkError, ConfigError

needs_compiler = pytest.mark.skipif(compiler() is None, reason="torch.compile needs a C++ compiler")
INPUTS = torch.linspace(-1.0, 1.0, 12).view(3, 4)
BOTH = [FloatModel.eager, FloatModel.compiled]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return MLP(4, [8], 2).eval()


@needs_compiler
def test_the_compiled_model_computes_as_the_eager_one_wherever_its_weights_lie(network: nn.Module) -> None:
    with torch.inference_mode():
        expected = network(INPUTS)
    before = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    graphs = torch._dynamo.utils.counters["stats"]
    before_it = graphs["unique_graphs"]
    with compiled(network, INPUTS) as found, torch.inference_mode():
        assert found.compile_seconds > 0
        assert found.max_difference <= 1e-3
        places = set()
        for _ in range(12):  # more than torch compiles anew before it gives up
            kept = [tensor.data_ptr() for tensor in found.model.state_dict().values()]
            model = found.copied()
            moved = [tensor.data_ptr() for tensor in model.state_dict().values()]
            assert all(old != new for old, new in zip(kept, moved, strict=True))
            places.add(tuple(moved))
            assert torch.allclose(model(INPUTS), expected, atol=1e-5)
        assert graphs["unique_graphs"] - before_it == 1, "compiled once for all places"
    assert {name: tensor.data_ptr() for name, tensor in network.state_dict().items()} == before


@needs_compiler
def test_a_compiled_model_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fickle(nn.Module):
        """Gives something else when it is compiled."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if torch.compiler.is_compiling() else x

    with pytest.raises(BenchmarkError, match=r"must compute what the eager one does.*differ by 1"):  # noqa: SIM117
        with compiled(Fickle(), INPUTS):
            pytest.fail("nothing may be timed")


def test_without_a_compiler_the_error_names_the_setting_and_the_way_out(network: nn.Module) -> None:
    import torch._inductor.config as inductor

    none = inductor.patch({"cpp.cxx": ("/no/such/compiler",)})
    with none, pytest.raises(BenchmarkError, match=r"benchmark.baselines=\[eager,compiled\].*install a C\+\+ compiler"):  # noqa: SIM117
        with compiled(copy.deepcopy(network), INPUTS):
            pytest.fail("nothing may be timed")


@needs_compiler
def test_a_quantized_model_is_compared_with_both_float_models(sample: Callable[..., Experiment]) -> None:
    protocol = Paired(placements=2, seconds=0.05, baselines=BOTH)
    report = run(sample(quant=Static(), batch_size=[2], benchmark=protocol)).report
    assert report.compiled is not None
    assert report.comparison is not None
    assert [one.batch_size for one in report.compiled.latency] == [2]
    assert [one.batch_size for one in report.comparison.speedups_over_compiled] == [2]
    found = metrics(report)
    assert found["compiled/compile_seconds"] == report.compiled.compile_seconds > 0
    eager, over_eager, over_compiled = (
        found[name] for name in ("compiled/speedup_b2", "speedup_b2", "speedup_over_compiled_b2")
    )
    assert over_eager / over_compiled == pytest.approx(eager, rel=0.5), "the same three models, in pairs"


@needs_compiler
def test_the_compiled_model_is_compared_with_the_eager_one_where_nothing_is_quantized(
    sample: Callable[..., Experiment],
) -> None:
    protocol = Paired(placements=2, seconds=0.05, baselines=BOTH)
    report = run(sample(quant=NoQuant(), batch_size=[2], benchmark=protocol)).report
    assert report.comparison is None
    assert report.compiled is not None
    assert [one.batch_size for one in report.compiled.speedups] == [2]


@pytest.mark.parametrize("names", [[], ["compiled"], ["eager", "eager"]])
def test_the_eager_model_is_always_the_first_to_compare_with(names: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"must be \[eager\] or \[eager,compiled\]"):
        Paired(baselines=[FloatModel(name) for name in names])
