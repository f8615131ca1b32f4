"""Random inputs without labels: what a network costs can be measured without any data.

Calibration and evaluation examples are two disjoint seeded draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from quantexp.config import DataRequest
from quantexp.results import InputSpec
from quantexp.tasks.data import TaskData, Tensors, calibration_split
from quantexp.tasks.inputs import examples
from quantexp.tasks.objectives.unlabelled import Unlabelled

EXAMPLES = 1024  # that are evaluated
SEEDS = 2**32  # that torch tells apart: it takes the lowest 32 bits


def load(inputs: Sequence[InputSpec], classes: int, request: DataRequest) -> TaskData:
    """Return splits of random inputs as `inputs` describes them."""
    seed = request.validation_seed
    drawn = Tensors(None, examples(inputs, max(EXAMPLES, request.calibration_examples), seed))
    test = Tensors(None, examples(inputs, EXAMPLES, SEEDS - 1 - seed % SEEDS))  # never the seed itself: one is odd
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
