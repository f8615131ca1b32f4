"""The signal-to-quantization-noise ratio."""

from __future__ import annotations

import math

import pytest
import torch

from quantexp.statistics import sqnr
from quantexp.statistics.sqnr import compared, decibels, energies, finite, sqnr_db


def test_noise_of_a_tenth_of_the_signal_is_twenty_decibels_below_it() -> None:
    logits = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    assert sqnr_db(logits, 1.1 * logits) == pytest.approx(20, abs=1e-4)
    assert sqnr_db(logits, 1.2 * logits) == pytest.approx(20 - 20 * math.log10(2), abs=1e-4)  # twice the noise: 6 dB


def test_without_noise_there_is_no_ratio_nor_with_what_is_no_number() -> None:
    logits = torch.ones(2, 3)
    assert sqnr_db(logits, logits) is None
    assert sqnr_db(logits, logits / 0) is None


def test_the_energies_of_batches_add_up_to_those_of_the_whole() -> None:
    draw = torch.Generator().manual_seed(0)
    reference, quantized = (torch.randn(100, 7, generator=draw) for _ in range(2))
    parts = [energies(*pair) for pair in zip(reference.split(30), quantized.split(30), strict=True)]
    signal, noise = (sum(energy) for energy in zip(*parts, strict=True))
    assert (signal, noise) == pytest.approx(energies(reference, quantized), rel=1e-12)
    assert decibels(signal, noise) == pytest.approx(sqnr_db(reference, quantized), rel=1e-12)


@pytest.mark.parametrize(("signal", "noise"), [(0.0, 1.0), (1.0, 0.0), (1.0, math.inf), (1.0, math.nan), (0.0, 0.0)])
def test_a_ratio_that_is_no_finite_number_is_none(signal: float, noise: float) -> None:
    assert decibels(signal, noise) is None


@pytest.mark.parametrize(
    ("value", "kept"), [(1.5, 1.5), (0.0, 0.0), (math.inf, None), (-math.inf, None), (math.nan, None)]
)
def test_only_a_finite_number_is_kept(value: float, kept: float | None) -> None:
    assert finite(value) == kept


@pytest.mark.parametrize("found", [(1.0, math.nan), (1.0, -math.inf), (1.0, 2.0), (math.inf, math.inf)])
def test_compared_values_that_are_not_finite_must_be_equal(found: tuple[float, ...]) -> None:
    expected = torch.tensor([1.0, math.inf])
    assert compared(expected, expected.clone()) == (0.0, math.inf)
    assert not compared(expected, torch.tensor(found))[1] >= 0


def test_tensors_of_different_shapes_have_nothing_in_common() -> None:
    assert compared(torch.ones(2, 3), torch.ones(3)) == (math.inf, -math.inf)


def test_energies_do_not_depend_on_how_many_values_are_converted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    reference, quantized = (torch.randn(10, 7, generator=draw) for _ in range(2))
    whole = energies(reference, quantized)
    monkeypatch.setattr(sqnr, "PIECE", 8)  # 70 values: eight pieces and a rest
    assert energies(reference, quantized) == pytest.approx(whole, rel=1e-12)
    assert energies(reference.T, quantized.T) == pytest.approx(whole, rel=1e-12)
