"""Which layers are sensitive to quantization: each part quantized alone, and all parts but it.

The first variant quantizes all layers of the experiment; the layers that are quantized then are varied. A part is one
of them, or a module with all of them inside it. Quantized alone, a part shows the effect of its own error; left in
float, what it adds to the error of all others.
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
    """Yield the variants of `experiment`, receive their reports, return the findings.

    Raises:
        QuantizationError: If all layers together cannot be quantized, or `study.layers` matches no quantized layer.
    """
    experiment = replace(experiment, study=Single())
    quant = experiment.quant
    assert isinstance(quant, Selective)  # checked by Experiment
    whole = yield experiment
    held = whole.result.evidence.held(str(experiment.precision))
    known: dict[frozenset[str], Report] = {frozenset(held): whole}
    failed: dict[str, str] = {}

    def measured(layers: frozenset[str], name: str, changed: Selective) -> Runs:
        """Yield a variant and return its report; None if nothing is quantized, or it cannot be quantized."""
        if layers and layers not in known:  # with two layers, one alone is all but the other
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
