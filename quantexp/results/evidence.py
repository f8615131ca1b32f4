"""The layers of a network, the operators that ran, where the time went, and the loss of each layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its place in the network, its class, and how its weights are held.

    `qscheme` and `engine` are None for a layer that is not quantized.
    """

    name: str
    kind: str
    precision: str
    bits: int
    qscheme: str | None = None
    engine: str | None = None


@dataclass(frozen=True, slots=True)
class LeftInFloat:
    """A layer that the method left in float, and the reason if it is known."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Operator:
    """A multiplying operator that ran: its precision, its calls, and its multiply-accumulates for one example."""

    name: str
    precision: str
    calls: int
    macs: int


@dataclass(frozen=True, slots=True)
class TimeShare:
    """An operator of a profiled forward pass and its share of the time, without the operators that it calls."""

    operator: str
    share: float


@dataclass(frozen=True, slots=True)
class Profile:
    """The shares of the time of a forward pass at one batch size, the largest first."""

    batch_size: int
    shares: tuple[TimeShare, ...]


@dataclass(frozen=True, slots=True)
class Account:
    """The multiply-accumulates of the float network for one example, counted in its own forward pass.

    `unknown` names the operators that can multiply and that the account cannot count; `macs` does not include them.
    """

    macs: int
    unknown: tuple[str, ...] = ()

    @property
    def flops(self) -> int | None:
        """The floating-point operations, two for a multiply-accumulate; None if some cannot be counted."""
        return None if self.unknown else 2 * self.macs


@dataclass(frozen=True, slots=True)
class Evidence:
    """The layers of a network and the operators that really ran.

    `account` is that of the float network; None in reports from before accounts existed.
    """

    layers: tuple[Layer, ...]
    operators: tuple[Operator, ...]
    left_in_float: tuple[LeftInFloat, ...]
    account: Account | None = None

    def held(self, precision: str) -> tuple[str, ...]:
        """Return the names of the layers that hold their weights in `precision`."""
        return tuple(layer.name for layer in self.layers if layer.precision == precision)

    def mac_share(self, precision: str) -> float | None:
        """Return the share of the network's multiply-accumulates that ran in `precision`; 0 if it has none.

        It is None if the account does not know all operators. Reports without an account have a share of the
        operators that were recorded.
        """
        if self.account is None:
            total = sum(operator.macs for operator in self.operators)
        elif self.account.unknown:
            return None
        else:
            total = self.account.macs
        return self.macs(precision) / total if total else 0.0

    def macs(self, precision: str) -> int:
        """Return the multiply-accumulates for one example that ran in `precision`."""
        return sum(operator.macs for operator in self.operators if operator.precision == precision)


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """The quantization error of one layer, compared with the same layer of the float network on the same examples.

    Weights are compared after dequantization: `weight_mean_error` and `weight_max_error` are absolute differences,
    `weight_low` and `weight_high` the range of the float weight. `input_low` and `input_high` are the range of the
    layer's inputs in the float network, `grid_low` and `grid_high` the range that the quantized layer can represent,
    None where no range is fixed; both are taken over all calls. `clipped` is the share of the float network's inputs
    that lie outside that range by more than half a step. The SQNRs compare the inputs and the outputs of the layer in
    both networks: `input_sqnr_db` shows the error that earlier layers caused, `output_sqnr_db` the error that is passed
    on. A figure is None where it is not finite or not available, and the weight errors are None for float weights.
    """

    name: str
    precision: str
    weight_mean_error: float | None
    weight_max_error: float | None
    weight_sqnr_db: float | None
    weight_low: float | None
    weight_high: float | None
    input_low: float | None
    input_high: float | None
    grid_low: float | None
    grid_high: float | None
    clipped: float | None
    input_sqnr_db: float | None
    output_sqnr_db: float | None
