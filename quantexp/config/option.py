"""How an option is declared: one dataclass whose fields carry their help, what they affect, and their bounds.

    epochs: int = option("passes over the training split", 2, affects=WEIGHTS, at_least=1)

The type is checked by Hydra while it composes, the bounds by `Settings.__post_init__`, and `--help`
prints the text. What a field affects decides where it counts: the cache key of a trained network is
made of the settings that affect WEIGHTS, the identity of a run of those that affect WEIGHTS or the
RESULT; a run's name and what a sweep varies leave out those that affect NOTHING.

Options are plain dataclasses: usable from Python without Hydra, and not frozen, because Hydra could
not override a frozen one. An option names the module that implements it as text and imports nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from enum import Enum
from types import NoneType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from quantexp.system.errors import ConfigError


class Affects(Enum):
    """What changes with a setting; a setting that shapes weights changes the result too."""

    WEIGHTS = "weights"
    RESULT = "result"
    NOTHING = "nothing"


WEIGHTS, RESULT, NOTHING = Affects.WEIGHTS, Affects.RESULT, Affects.NOTHING


def option(
    help: str,
    default: Any = None,
    *,
    affects: Affects,
    unchanged: Any = dataclasses.MISSING,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
) -> Any:
    """Declare a field of an option: its help, its default, what it affects, and the bounds of its value or values.

    `unchanged` is the value with which everything is as it was before the setting existed: cache keys and identities
    leave it out, so that older results are found.
    """
    metadata = {"help": help, "affects": affects, "at_least": at_least, "at_most": at_most, "above": above}
    metadata["unchanged"] = unchanged
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass
class Settings:
    """Values that are checked together. `group` is their key in the config, empty at the top."""

    group: ClassVar[str] = ""
    affects: ClassVar[Mapping[str, Affects]] = {}  # where it differs from what the inherited field says

    @classmethod
    def affected_by(cls, name: str) -> Affects:
        """Return what the field `name` affects."""
        declared: Affects = cls.affects.get(name) or cls.__dataclass_fields__[name].metadata["affects"]
        return declared

    def settings(self, *which: Affects) -> dict[str, Any]:
        """Return the values of the fields that affect one of `which`, as plain values, without those of `unchanged`."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if "affects" in field.metadata and self.affected_by(field.name) in which
            if getattr(self, field.name) != field.metadata["unchanged"]
        }
        return {name: plain(value) for name, value in values.items()}

    def __post_init__(self) -> None:
        faults = [*self._name_faults(), *self.faults()]
        if faults:
            raise ConfigError(*faults)

    def _name_faults(self) -> Iterator[str]:
        """Turn names into members of their Enum; yield a fault for each that is not one."""
        cls: Any = type(self)
        for field, kind in _types(cls).items():
            value, names = getattr(self, field, None), names_of(kind)
            if names is None or isinstance(value, names) or (value is None and names is not kind):
                continue
            try:
                setattr(self, field, names(value))
            except ValueError:
                listed = ", ".join(member.value for member in names)
                yield f"{self.group}.{field} must be one of {listed}, got {value!r}".removeprefix(".")

    def faults(self) -> Iterator[str]:
        """Yield a sentence for each fault of the values."""
        for field in dataclasses.fields(self):
            yield from bound_faults(f"{self.group}.{field.name}", getattr(self, field.name), field)

    def filled(self, **values: Any) -> Self:
        """Return a copy with these values. It keeps keys that were added with +, which `extras` must find."""
        copied = copy.copy(self)
        for name, value in values.items():
            setattr(copied, name, value)
        return copied

    def extras(self) -> Iterator[str]:
        """Yield the keys that were added with `+key=value` and that are no field."""
        declared = {field.name for field in dataclasses.fields(self)}
        yield from (f"{self.group}.{key}" for key in vars(self) if key not in declared)


@dataclasses.dataclass
class Option(Settings):
    """One value of a config group: `name` is what one types, `implementation` the module that does it.

    `choice_affects` says what changes when another value of the group is chosen.
    """

    name: ClassVar[str] = ""
    implementation: ClassVar[str] = ""
    choice_affects: ClassVar[Affects] = RESULT


@functools.cache
def _types(settings: type[Any]) -> dict[str, Any]:
    return get_type_hints(settings)


def plain(value: Any) -> Any:
    """Return a value with Enums, in lists and dicts too, replaced by what one types for them."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def names_of(kind: Any) -> type[Enum] | None:
    """Return the Enum that a field of this type takes a name from, be it optional or not; None for others."""
    kinds = [one for one in get_args(kind) if one is not NoneType] or [kind]
    single = kinds[0] if len(kinds) == 1 and get_origin(kind) is not list else None
    return single if isinstance(single, type) and issubclass(single, Enum) else None


def bound_faults(path: str, value: Any, field: dataclasses.Field[Any]) -> Iterator[str]:
    """Yield a sentence for each number in `value` that lies outside the bounds of `field`."""
    values = value if isinstance(value, list) else [value]
    low, high, above = (field.metadata.get(name) for name in ("at_least", "at_most", "above"))
    for number in values:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            yield f"{path} must be a finite number, got {number}"
        elif low is not None and number < low:
            yield f"{path} must be at least {low}, got {number}"
        elif high is not None and number > high:
            yield f"{path} must be at most {high}, got {number}"
        elif above is not None and number <= above:
            yield f"{path} must be above {above}, got {number}"
