"""The errors that quantexp raises on purpose; `except QuantexpError` catches all of them.

    QuantexpError
    ├── ConfigError          a value, or a pair of values, that cannot be run
    ├── DataError            files of a data set that are missing, damaged or out of reach
    ├── CacheError           the folder of trained models or downloads cannot be used
    ├── TrainingError        training that cannot start or has diverged
    ├── QuantizationError    a method that could not run, or a network that is not what it declares
    │   └── CheckError       a quantized network that does not compute what it should
    ├── BenchmarkError       a measurement whose conditions could not be set up
    ├── TrackingError        a tracking store that cannot be reached or written
    └── ModelError           a stored model that is missing, damaged or not ours

Each message names the rule, the value received and the repair.
"""

from typing import Self

INTERNAL_ERROR = "internal error; please report it with the lines above"

_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "not enough memory")


class QuantexpError(Exception):
    """The base of all errors that the user can repair; shown without a traceback."""


class Mismatch(str):
    """A fault of values that are right by themselves, but not supported together.

    `rule` says what is not supported; the whole sentence adds what was received and the repair.
    """

    rule: str

    def __new__(cls, rule: str, rest: str = "") -> Self:
        fault = super().__new__(cls, rule + rest)
        fault.rule = rule
        return fault


class ConfigError(QuantexpError):
    """Values that cannot be run. Has every fault that was found."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """The faults if all of them are mismatches, so that no value is wrong by itself; otherwise none."""
        found = tuple(fault for fault in self.faults if isinstance(fault, Mismatch))
        return found if len(found) == len(self.faults) else ()


class DataError(QuantexpError):
    """A data set is missing, damaged or cannot be downloaded."""


class CacheError(QuantexpError):
    """The cache directory cannot be read or written."""


class TrainingError(QuantexpError):
    """Training cannot start (device, checkpoint) or has diverged."""


class QuantizationError(QuantexpError):
    """A method could not run here, or its network is not what the method declares."""


class CheckError(QuantizationError):
    """A self-check failed: the network would give wrong results, or its figures would be wrong.

    `check` is its name: "stored", "traced", "kernels", "macs", "repeated" or "process".
    """

    def __init__(self, check: str, message: str) -> None:
        self.check = check
        super().__init__(message)


class BenchmarkError(QuantexpError):
    """The conditions of a measurement, such as the thread count, could not be set up."""


class TrackingError(QuantexpError):
    """The tracking store cannot be reached, read or written."""


class ModelError(QuantexpError):
    """A stored model is missing, damaged, or is not one that quantexp wrote."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python or torch says that there is not enough memory."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)
