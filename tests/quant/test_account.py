"""The multiply-accumulates of float networks, whose numbers follow from the shapes, and shares taken over them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.nn import functional as F

from quantexp.config import Dynamic, Engine, Static
from quantexp.quant.engine import supported_engines
from quantexp.quant.flows.working import working
from quantexp.quant.inspection.account import account, findings
from quantexp.quant.inspection.evidence import inspect, operators
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.results import Account, Evidence
from quantexp.system.errors import CheckError
from tests.networks import inspected, made

N, LENGTH, WIDTH, HIDDEN = 3, 5, 8, 6
WEIGHT = torch.linspace(-1, 1, HIDDEN * WIDTH).view(HIDDEN, WIDTH)
ROWS, SEQUENCE = (N, WIDTH), (N, LENGTH, WIDTH)
ENGINES = [Engine(name) for name in supported_engines()]
ENGINE = next(engine for engine in Engine if engine in ENGINES)
LAYER = LENGTH * (4 * WIDTH**2 + 2 * LENGTH * WIDTH)  # four projections and two products of self-attention


@torch.library.custom_op("quantexp_tests::product", mutates_args=())
def product(x: Tensor) -> Tensor:
    return x @ WEIGHT.T


class Computes(nn.Module):
    """A network that is a function, with the layers that it calls."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *batch: Tensor) -> Any:
        return self.function(*batch, *self.layers)


def counted(network: nn.Module, *shape: int) -> Account:
    """The account on a batch of this shape."""
    return account(network.eval(), (torch.rand(*shape),))


def attends(x: Tensor, **options: Any) -> Tensor:
    heads = x.unsqueeze(1)
    return F.scaled_dot_product_attention(heads, heads, heads, **options)


def unequal(x: Tensor, layer: nn.Module) -> Any:
    lengths = torch.tensor([5, 4, 3])
    return layer(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[0].data


def recurrent(kind: type[nn.Module], **options: Any) -> nn.Module:
    return kind(WIDTH, HIDDEN, batch_first=True, **options)


@pytest.mark.parametrize(
    ("network", "shape", "macs"),
    [
        (nn.Linear(WIDTH, HIDDEN), ROWS, WIDTH * HIDDEN),
        (nn.Linear(WIDTH, HIDDEN), SEQUENCE, LENGTH * WIDTH * HIDDEN),
        (Computes(lambda x: F.linear(x, WEIGHT)), SEQUENCE, LENGTH * WIDTH * HIDDEN),
        (Computes(lambda x: x @ WEIGHT.T), SEQUENCE, LENGTH * WIDTH * HIDDEN),
        (Computes(lambda x: torch.einsum("nld,od->nlo", x, WEIGHT)), SEQUENCE, LENGTH * WIDTH * HIDDEN),
        (Computes(lambda x: x @ WEIGHT[0]), ROWS, WIDTH),
        (Computes(lambda x: (x[:, None] * WEIGHT).sum(-1)), ROWS, HIDDEN * WIDTH),
        (Computes(lambda x, layer: layer(x, x), nn.Bilinear(WIDTH, WIDTH, HIDDEN)), ROWS, HIDDEN * WIDTH**2),
    ],
)
def test_each_weight_of_a_product_counts_once_for_each_row(
    network: nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    assert counted(network, *shape) == Account(macs)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_scripted_layer_counts_as_in_python() -> None:
    assert counted(torch.jit.script(nn.Linear(WIDTH, HIDDEN)), *ROWS) == Account(WIDTH * HIDDEN)


@pytest.mark.parametrize(
    ("network", "shape", "macs"),
    [
        (nn.Conv1d(4, 6, 3, dilation=2), (N, 4, 9), 6 * 5 * (4 * 3)),
        (nn.Conv2d(4, 4, 3, groups=4), (N, 4, 8, 8), 4 * 6**2 * 3**2),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (N, 4, 8, 8), 6 * 4**2 * (2 * 3**2)),
        (nn.Conv3d(2, 4, 3, padding="same"), (N, 2, 4, 4, 4), 4 * 4**3 * (2 * 3**3)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (N, 4, 7), 4 * 7 * (6 * 3)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (N, 4, 7, 7), 4 * 7**2 * (3 * 3**2)),
        (nn.ConvTranspose3d(2, 3, 3), (N, 2, 3, 3, 3), 2 * 3**3 * (3 * 3**3)),
    ],
)
def test_a_convolution_counts_the_weights_of_each_output_and_a_transposed_one_of_each_input(
    network: nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    assert counted(network, *shape) == Account(macs)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize(
    ("network", "macs"),
    [
        (recurrent(nn.LSTM), LENGTH * 4 * HIDDEN * (WIDTH + HIDDEN)),
        (recurrent(nn.GRU), LENGTH * 3 * HIDDEN * (WIDTH + HIDDEN)),
        (recurrent(nn.RNN), LENGTH * HIDDEN * (WIDTH + HIDDEN)),
        (
            recurrent(nn.LSTM, num_layers=2, bidirectional=True),
            LENGTH * 2 * 4 * HIDDEN * ((WIDTH + HIDDEN) + (2 * HIDDEN + HIDDEN)),
        ),
        (recurrent(nn.LSTM, proj_size=4), LENGTH * (4 * HIDDEN * (WIDTH + 4) + HIDDEN * 4)),
        (Computes(unequal, recurrent(nn.LSTM)), (5 + 4 + 3) * 4 * HIDDEN * (WIDTH + HIDDEN) // N),
    ],
)
def test_a_recurrent_layer_counts_its_gates_in_each_step(network: nn.Module, macs: int) -> None:
    assert counted(network, *SEQUENCE) == Account(macs)
    double = copy.deepcopy(network).double(), (torch.rand(*SEQUENCE, dtype=torch.float64),)  # runs in parts
    assert account(*double) == Account(macs)


@pytest.mark.parametrize(
    ("cell", "gates"),
    [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_cell_counts_its_gates_once(cell: type[nn.Module], gates: int) -> None:
    assert counted(cell(WIDTH, HIDDEN), *ROWS) == Account(gates * HIDDEN * (WIDTH + HIDDEN))


def attention(**options: Any) -> nn.Module:
    layer = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    return Computes(lambda x, layer: layer(x, x, x, **options)[0], layer)


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, batch_first=True), 2)


def masked(x: Tensor, layer: nn.Module) -> Any:
    return layer(x, src_key_padding_mask=torch.arange(LENGTH).expand(len(x), LENGTH) > 2)


@pytest.mark.parametrize(
    ("network", "macs"),
    [
        (Computes(attends), 2 * LENGTH**2 * WIDTH),
        (Computes(lambda x: attends(x, is_causal=True)), 2 * LENGTH**2 * WIDTH),
        (Computes(lambda x: torch.softmax(x @ x.mT, -1) @ x), 2 * LENGTH**2 * WIDTH),
        (attention(), LAYER),
        (attention(need_weights=False), LAYER),
        (encoder(), 2 * (LAYER + LENGTH * 2 * WIDTH * HIDDEN)),
        (Computes(masked, encoder()), 2 * (LAYER + LENGTH * 2 * WIDTH * HIDDEN)),  # padding counts
    ],
)
def test_attention_counts_projections_and_both_products_however_it_runs(network: nn.Module, macs: int) -> None:
    assert counted(network, *SEQUENCE) == Account(macs)


@pytest.mark.parametrize("network", [encoder(), recurrent(nn.LSTM), nn.Linear(WIDTH, HIDDEN), Computes(attends)])
def test_the_account_is_the_same_whatever_the_mode_of_the_caller(network: nn.Module) -> None:
    found = []
    for mode in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with mode:
            found.append(counted(network, *SEQUENCE))
    assert found[0].macs > 0
    assert found[0] == found[1] == found[2]


def test_the_fast_path_of_attention_is_as_it_was_after_an_account() -> None:
    counted(encoder(), *SEQUENCE)
    assert torch.backends.mha.get_fastpath_enabled()


def test_weights_that_are_computed_before_each_call_are_not_counted() -> None:
    wrapped = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, HIDDEN))
    assert counted(wrapped, *ROWS) == Account(WIDTH * HIDDEN)
    assert nn.utils.parametrize.is_parametrized(wrapped)  # the network itself is as it was


@pytest.mark.parametrize(
    "function",
    [lambda x: (x * (x.mean(-1, keepdim=True) > 0.5)).sum(1) / LENGTH, lambda x: F.cosine_similarity(x, 1 - x, dim=-1)],
    ids=["mean under a mask", "cosine"],
)
def test_a_weighted_sum_of_the_values_of_one_tensor_is_no_product(function: Callable[[Tensor], Tensor]) -> None:
    assert counted(Computes(function), *SEQUENCE) == Account(0)


def attends_by_sums(x: Tensor) -> Tensor:
    weights = torch.softmax((x.unsqueeze(2) * x.unsqueeze(1)).sum(-1), -1)
    return (weights.unsqueeze(-1) * x.unsqueeze(1)).sum(2)


def test_attention_that_is_written_as_multiplications_and_sums_counts_as_its_products() -> None:
    assert counted(Computes(attends_by_sums), *SEQUENCE) == Account(2 * LENGTH**2 * WIDTH)


def test_an_embedding_multiplies_nothing() -> None:
    network = nn.Sequential(nn.Embedding(10, WIDTH), nn.Flatten(), nn.Linear(LENGTH * WIDTH, 2)).eval()
    assert account(network, (torch.randint(0, 10, (N, LENGTH)),)) == Account(LENGTH * WIDTH * 2)


def resized(x: Tensor) -> list[Tensor]:
    pooled = [F.max_pool2d(x, 2), F.avg_pool2d(x, 2), F.adaptive_avg_pool2d(x, 3), F.lp_pool2d(x, 2, 2)]
    sizes = [F.interpolate(x, scale_factor=2, mode=mode) for mode in ("nearest", "bilinear", "bicubic", "area")]
    return [*pooled, *sizes, *(F.pad(x, (1, 1, 1, 1), mode) for mode in ("constant", "reflect", "replicate"))]


def rearranged(x: Tensor) -> list[Tensor]:
    first = torch.zeros(len(x), 1, *x.shape[2:], dtype=torch.long)
    found = [torch.cat([x, x]), torch.stack([x, x]), x.roll(1), x.flip(1), x[:, [0, 1]], x[x > 0], x.gather(1, first)]
    found += [*x.sort(1), *x.topk(2), x.unfold(2, 2, 1), F.unfold(x, 2), F.pixel_shuffle(x, 2), x.cumsum(1), x.std(1)]
    return [*found, x.masked_fill(x > 0, 0), torch.where(x > 0, x, 0), x.repeat(1, 2, 1, 1), x.contiguous(), x.tril()]


def activated(x: Tensor) -> list[Tensor]:
    functions = (F.relu, F.gelu, F.silu, F.elu, F.mish, F.hardswish, F.softplus, F.glu, F.logsigmoid, torch.erf)
    noisy = [F.dropout(x), torch.bernoulli(torch.rand_like(x)), x + torch.randn_like(x)]
    return [*(function(x) for function in functions), x.softmax(1), x.log_softmax(1), x.logsumexp(1), *noisy]


def normalised(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    return [F.normalize(x), *(layer(x) for layer in layers)]


NORMS = (nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(8), nn.RMSNorm(8), nn.PReLU(4))


@pytest.mark.parametrize(
    "network", [Computes(resized), Computes(rearranged), Computes(activated), Computes(normalised, *NORMS)]
)
def test_what_only_moves_scales_or_selects_values_is_known_to_multiply_nothing(network: nn.Module) -> None:
    assert counted(network, N, 4, 8, 8) == Account(0)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: product(x), "quantexp_tests.product"),
        (lambda x: torch.fft.rfft(x).abs(), "aten._fft_r2c"),
        (lambda x: torch.cdist(x, x), "aten._cdist_forward"),
        (lambda x: torch.linalg.inv(x.mT @ x + torch.eye(WIDTH)), "aten.linalg_inv_ex"),
        (lambda x: torch.from_numpy(x.numpy() @ WEIGHT.numpy().T), "Tensor.numpy"),
    ],
)
def test_what_can_multiply_and_cannot_be_counted_is_named_and_leaves_flops_unknown(
    function: Callable[[Tensor], Any], name: str
) -> None:
    found = counted(Computes(function), *ROWS)
    assert found.unknown == (name,)
    assert found.flops is None
    (finding,) = findings(found)
    assert finding.check == "macs"
    assert f"does not know {name};" in finding.text


def test_an_operator_with_a_registered_formula_is_known() -> None:
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    operator = torch.ops.quantexp_tests.product
    register_flop_formula(operator)(lambda shape, *_, out_shape=None, **__: 2 * shape[0] * HIDDEN * WIDTH)
    try:
        assert counted(Computes(lambda x: product(x)), *ROWS) == Account(HIDDEN * WIDTH)
    finally:
        del flop_registry[operator]


def test_a_network_that_is_known_has_no_finding_and_two_operations_for_a_multiply_accumulate() -> None:
    found = counted(nn.Linear(WIDTH, HIDDEN), *ROWS)
    assert list(findings(found)) == []
    assert found.flops == 2 * WIDTH * HIDDEN


# Shares


def evidence(source: nn.Module, quantized: nn.Module, *batch: Tensor) -> Evidence:
    return inspected(quantized, *batch, promise=Promise("", operators="int8"), source=source)


def test_no_share_is_given_where_a_float_product_runs_in_an_operator_that_is_not_known() -> None:
    source = nn.Sequential(nn.Linear(WIDTH, WIDTH), Computes(lambda x: product(x))).eval()
    batch = torch.rand(*ROWS)
    found = evidence(source, made(Dynamic(), source, "int8", batch), batch)
    assert found.macs("int8") == WIDTH * WIDTH
    assert found.mac_share("int8") is None


@pytest.mark.filterwarnings("ignore:Currently, qnnpack incorrectly ignores:UserWarning")
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize(
    "layer",
    [recurrent(nn.LSTM, num_layers=2, bidirectional=True), recurrent(nn.GRU)],
    ids=lambda one: type(one).__name__,
)
def test_quantized_gates_count_in_all_layers_and_directions(engine: Engine, layer: nn.Module) -> None:
    source, batch = nn.Sequential(layer).eval(), torch.rand(*SEQUENCE)
    with working(engine):
        quantized = quantize_dynamic(source, {type(layer)}, dtype=torch.qint8)
        assert evidence(source, quantized, batch).mac_share("int8") == 1.0


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell], ids=lambda one: one.__name__)
def test_quantized_cells_count_their_gates(cell: type[nn.Module]) -> None:
    source, batch = nn.Sequential(cell(WIDTH, HIDDEN)).eval(), torch.rand(*ROWS)
    with working(ENGINE):
        quantized = quantize_dynamic(source, {cell}, dtype=torch.qint8)
        assert evidence(source, quantized, batch).mac_share("int8") == 1.0


@pytest.mark.skipif(Engine.x86 not in ENGINES, reason="x86 packs half floats")
@pytest.mark.parametrize("layer", [recurrent(nn.LSTM), recurrent(nn.GRU), nn.Linear(WIDTH, HIDDEN)], ids=repr)
def test_gates_with_weights_in_half_precision_are_no_integers(layer: nn.Module) -> None:
    source, batch = nn.Sequential(layer).eval(), torch.rand(*SEQUENCE)
    with working(Engine.x86):
        quantized = quantize_dynamic(source, {type(layer)}, dtype=torch.float16)
        found = inspected(quantized, batch, source=source)
    assert (found.mac_share("fp16"), found.mac_share("int8")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3), (N, 4, 9)),
        (nn.Conv3d(2, 4, 3), (N, 2, 5, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (N, 4, 7, 7)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_quantized_convolutions_of_every_kind_count_as_in_float(layer: nn.Module, shape: tuple[int, ...]) -> None:
    source, batch = nn.Sequential(layer, nn.ReLU()).eval(), torch.rand(*shape)
    quantized = made(Static(engine=ENGINE), source, "int8", batch)
    assert evidence(source, quantized, batch).mac_share("int8") == 1.0


def test_gates_that_stay_in_float_are_in_the_denominator() -> None:
    lstm, head = recurrent(nn.LSTM), nn.Linear(HIDDEN, 2)
    source, batch = Computes(lambda x, lstm, head: head(lstm(x)[0][:, -1]), lstm, head).eval(), torch.rand(*SEQUENCE)
    with working(ENGINE):
        quantized = quantize_dynamic(source, {nn.Linear}, dtype=torch.qint8)
        found = evidence(source, quantized, batch)
    gates = LENGTH * 4 * HIDDEN * (WIDTH + HIDDEN)
    assert found.mac_share("int8") == HIDDEN * 2 / (gates + HIDDEN * 2)


def test_more_in_int8_than_the_float_network_multiplies_is_an_error_with_both_numbers() -> None:
    source, batch = nn.Sequential(nn.Linear(WIDTH, HIDDEN)).eval(), (torch.rand(*ROWS),)
    quantized = Quantized(made(Dynamic(), source, "int8", *batch), Promise("nn.Linear", "int8", "int8"))
    ran = operators(quantized.model, batch)
    assert inspect(quantized, ran, None, Account(WIDTH * HIDDEN)).mac_share("int8") == 1.0
    with pytest.raises(CheckError, match="48 multiply-accumulates ran in int8, the float network has 47") as failure:
        inspect(quantized, ran, None, Account(WIDTH * HIDDEN - 1))
    assert failure.value.check == "macs"
