"""What a network is made of, what ran, where the time went, and what each layer loses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer became: its place in the network, its class, and how its weights are held.

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
    """A layer that the method left in float, and why as far as it is known."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Operator:
    """A multiplying operator that ran: its precision, how often, and its multiply-accumulates for one example."""

    name: str
    precision: str
    calls: int
    macs: int


@dataclass(frozen=True, slots=True)
class TimeShare:
    """An operator of a profiled forward pass and its share of the time, that of operators within it apart."""

    operator: str
    share: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a forward pass went at one batch size, the greatest share first."""

    batch_size: int
    shares: tuple[TimeShare, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a model is made of and what really ran."""

    layers: tuple[Layer, ...]
    operators: tuple[Operator, ...]
    left_in_float: tuple[LeftInFloat, ...]

    def held(self, precision: str) -> tuple[str, ...]:
        """Return the names of the layers that hold their weights in `precision`."""
        return tuple(layer.name for layer in self.layers if layer.precision == precision)

    def mac_share(self, precision: str) -> float:
        """Return the share of the multiply-accumulates that ran in `precision`; 0 where nothing multiplies."""
        total = sum(operator.macs for operator in self.operators)
        return sum(one.macs for one in self.operators if one.precision == precision) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """What one layer of the quantized model loses against the float model's, on the same evaluated examples.

    Weights are compared as float sees them: `weight_mean_error` and `weight_max_error` are absolute differences,
    `weight_low` and `weight_high` the range of the float weight. `input_low` and `input_high` are the range of the
    inputs that the layer has in the float model, `grid_low` and `grid_high` that of the values which the quantized
    layer's inputs are rounded to, None where no range is fixed; both of all calls together. `clipped` is the share of
    the float model's inputs that lie beyond, by more than half a step. The SQNRs are the energy of what the float layer
    takes, or gives, over that of its difference from the quantized one's: `input_sqnr_db` tells what came in damaged,
    `output_sqnr_db` what goes on. Any figure is None where it is not finite or cannot be had; errors of a weight that
    stays in float are.
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
