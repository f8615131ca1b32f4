"""Which layers suffer from quantization: each one quantized alone, and all but it.

First everything is quantized that the experiment says: what then holds low precision are the layers to vary. A part
is one of them, or a module with children and all of them that lie in it. Alone, a part shows what its own rounding
does to a network that is float otherwise; left out, what it adds to the rounding of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace

from quantexp.config import Experiment, Selective, Sensitivity, Single
from quantexp.reports.findings import Findings
from quantexp.results import Report
from quantexp.studies.parts import parts_of
from quantexp.studies.sensitivity.findings import Part, SensitivityReport
from quantexp.studies.sensitivity.table import findings
from quantexp.system.errors import QuantizationError

Runs = Generator[Experiment, Report, Report | None]


def find(
    settings: Sensitivity, experiment: Experiment, command: Callable[[Experiment], str]
) -> Generator[Experiment, Report, Findings]:
    """Yield the variants of `experiment`, receive their reports, return what they say together.

    Raises:
        QuantizationError: If all layers together cannot be quantized, or `study.layers` matches nothing that is.
    """
    experiment = replace(experiment, study=Single())
    quant = experiment.quant
    assert isinstance(quant, Selective)  # Experiment has seen to it
    whole = yield experiment
    held = whole.result.evidence.held(str(experiment.precision))
    known: dict[frozenset[str], Report] = {frozenset(held): whole}
    failed: dict[str, str] = {}

    def measured(layers: frozenset[str], name: str, changed: Selective) -> Runs:
        """Yield a variant and return its report; None if there is nothing to quantize, or it cannot be done."""
        if layers and layers not in known:  # of two layers, one alone is all but the other
            try:
                known[layers] = yield replace(experiment, quant=changed)
            except QuantizationError as error:
                failed[name] = str(error)
        return known.get(layers)

    parts = []
    for name, layers in parts_of(settings.layers, held).items():
        others = frozenset(held).difference(layers)
        alone = yield from measured(frozenset(layers), f"{name} alone", replace(quant, include=list(layers)))
        without = replace(quant, exclude=[*quant.exclude, *layers])
        all_but = yield from measured(others, f"all but {name}", without)
        parts.append(Part(name, layers, alone, all_but))
    return findings(SensitivityReport(whole, tuple(parts), failed, tuple(quant.exclude), settings.by))
