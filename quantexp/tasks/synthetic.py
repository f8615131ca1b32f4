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
DRAWS = 2**33  # beyond every seed of a run: evaluation draws with others than calibration


def load(inputs: Sequence[InputSpec], classes: int, request: DataRequest) -> TaskData:
    """Return splits of random inputs as `inputs` describes them."""
    seed = request.validation_seed
    drawn = Tensors(None, examples(inputs, max(EXAMPLES, request.calibration_examples), seed))
    test = Tensors(None, examples(inputs, EXAMPLES, DRAWS + seed))
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
