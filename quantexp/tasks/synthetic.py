"""Random inputs without labels, to measure size, latency and agreement without any data.

Calibration and evaluation examples are two independent draws, each with a seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from quantexp.config import DataRequest
from quantexp.results import InputSpec
from quantexp.tasks.data import TaskData, Tensors, calibration_split
from quantexp.tasks.inputs import examples
from quantexp.tasks.objectives.unlabelled import Unlabelled

EXAMPLES = 1024  # in the evaluated split, unless the run says otherwise
SEEDS = 2**32  # number of different seeds: torch uses the lowest 32 bits


def load(inputs: Sequence[InputSpec], classes: int, request: DataRequest) -> TaskData:
    """Return splits of random inputs that match the specs `inputs`."""
    seed = request.validation_seed
    count = max(request.evaluated or EXAMPLES, request.calibration_examples if request.calibrates else 2)
    drawn = Tensors(None, examples(inputs, count, seed))
    test = Tensors(
        None, examples(inputs, request.evaluated or EXAMPLES, SEEDS - 1 - seed % SEEDS)
    )  # never equal to the seed: one of them is odd
    return TaskData(
        train=drawn,
        calibration=calibration_split(drawn, test, request),
        test=test,
        inputs=tuple(inputs),
        classes=classes,
        objective=Unlabelled(),
        fingerprint=hashlib.sha256(repr((tuple(inputs), classes, seed)).encode()).hexdigest(),
        origin="random inputs without labels",
    )
