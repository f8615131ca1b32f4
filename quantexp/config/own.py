"""What a class or function of the user's own is named by and called with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def own_code_faults(group: str, target: str | None, arguments: Any, given: tuple[str, ...]) -> Iterator[str]:
    """Yield what is wrong with `target` and `arguments` of `group`; quantexp itself passes the arguments `given`."""
    parts = str(target).split(".")
    if not target:
        yield f"{group}=custom needs a class or a function, got none; give {group}.target=package.module.Class"
    elif len(parts) < 2 or not all(part.isidentifier() for part in parts):
        yield (f"{group}.target must be a class or a function, written package.module.Class, got {target!r}")
    if not isinstance(arguments, dict):
        yield f"{group}.arguments must be names with values, such as {{width: 64}}, got {arguments!r}"
        return
    for name in arguments:
        if name in given:
            yield f"{group}.arguments.{name} is passed by quantexp, got {arguments[name]!r}; leave it out"
        elif not str(name).isidentifier():
            yield f"{group}.arguments must have names as keys, got {name!r}"
    try:
        json.dumps(arguments)
    except (TypeError, ValueError) as error:
        yield f"{group}.arguments must be plain values, as they are stored as JSON, got {arguments!r} ({error})"
