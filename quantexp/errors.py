"""Every error that quantexp raises on purpose; `except QuantexpError` catches them all.

    QuantexpError
    ├── ConfigError          a value, or a pair of values, that cannot be run
    ├── DataError            files of a data set that are missing, damaged or out of reach
    ├── CacheError           the folder of trained models or downloads cannot be used
    ├── TrainingError        training that cannot start or has diverged
    ├── QuantizationError    a method that could not run, or left behind what it did not promise
    ├── BenchmarkError       a measurement whose conditions could not be set up
    ├── TrackingError        a tracking store that cannot be reached or written
    └── ModelError           a stored model that is missing, damaged or not ours

Each message names the rule, the value received and the repair.
"""


class QuantexpError(Exception):
    """The base of all errors that are the user's to repair; shown without a traceback."""


class ConfigError(QuantexpError):
    """Values that cannot be run. Carries every fault found, so that all are repaired in one go."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class DataError(QuantexpError):
    """A data set is missing, damaged or cannot be downloaded."""


class CacheError(QuantexpError):
    """The cache directory cannot be read or written."""


class TrainingError(QuantexpError):
    """Training cannot start (device, checkpoint) or has diverged."""


class QuantizationError(QuantexpError):
    """A method could not run here, or the model it left is not what the method declares."""


class BenchmarkError(QuantexpError):
    """The conditions of a measurement, such as the thread count, could not be set up."""


class TrackingError(QuantexpError):
    """The tracking store is out of reach or refuses what it is given."""


class ModelError(QuantexpError):
    """A stored model is missing, damaged, or is not one that quantexp wrote."""
