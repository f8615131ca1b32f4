from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from quantexp.config import Compiled, Experiment, NoQuant, Paired, Static
from quantexp.mission import run
from quantexp.models.mlp import MLP
from quantexp.runtimes import prepare
from quantexp.system.environment import compiler
from quantexp.system.errors import BenchmarkError, ConfigError

needs_compiler = pytest.mark.skipif(compiler() is None, reason="torch.compile needs a C++ compiler")
INPUTS = torch.linspace(-1.0, 1.0, 12).view(3, 4)


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
    found = prepare(Compiled(), network, (INPUTS,))
    with torch.inference_mode():
        assert found.seconds is not None and found.seconds > 0
        assert found.max_difference is not None and found.max_difference <= 1e-3
        places = set()
        for _ in range(12):  # more than torch compiles anew before it gives up
            kept = [tensor.data_ptr() for tensor in found.network.state_dict().values()]
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

    with pytest.raises(BenchmarkError, match=r"must differ from eager execution by at most .*they differ by 1"):
        prepare(Compiled(), Fickle(), (INPUTS,))


def test_without_a_compiler_the_error_names_the_setting_and_the_way_out(network: nn.Module) -> None:
    import torch._inductor.config as inductor

    none = inductor.patch({"cpp.cxx": ("/no/such/compiler",)})
    with none, pytest.raises(BenchmarkError, match=r"needs a C\+\+ compiler, .* or use runtime=eager"):
        prepare(Compiled(), copy.deepcopy(network), (INPUTS,))


@needs_compiler
def test_a_quantized_model_is_compared_with_the_float_model_in_both_runtimes(
    sample: Callable[..., Experiment],
) -> None:
    protocol = Paired(placements=2, seconds=0.05, runtimes=["compiled"])
    report = run(sample(quant=Static(), batch_size=[2], benchmark=protocol)).report
    (other,) = report.others
    assert report.comparison is not None
    assert other.runtime == "compiled"
    assert [one.batch_size for one in other.latency] == [2]
    assert other.prepare_seconds is not None and other.prepare_seconds > 0
    (over_eager,), (over_compiled,), (compiled_over_eager,) = (
        *(report.comparison.speedups, other.quantized_speedups, other.speedups),
    )
    assert over_eager.ratio / over_compiled.ratio == pytest.approx(compiled_over_eager.ratio, rel=0.5), (
        "the same three models, in pairs"
    )


@needs_compiler
def test_the_compiled_model_is_compared_with_the_eager_one_where_nothing_is_quantized(
    sample: Callable[..., Experiment],
) -> None:
    protocol = Paired(placements=2, seconds=0.05, runtimes=["compiled"])
    report = run(sample(quant=NoQuant(), batch_size=[2], benchmark=protocol)).report
    assert report.comparison is None
    (other,) = report.others
    assert [one.batch_size for one in other.speedups] == [2]
    assert other.quantized_speedups == ()


@pytest.mark.parametrize(
    ("names", "told"), [(["jit"], "must name runtimes"), (["eager", "eager"], "must name each runtime once")]
)
def test_further_runtimes_are_those_that_there_are_each_once(names: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Paired(runtimes=names)
