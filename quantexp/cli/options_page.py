"""The page docs/options.md, generated from the options: every group, value and setting.

python -m quantexp.cli.options_page > docs/options.md
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import get_type_hints

from quantexp.cli.help import groups, shown
from quantexp.config import Affects, Experiment, Settings, SweepSettings, names_of

INTRODUCTION = """\
# Options

Every setting, as `KEY=VALUE` on the command line. `python -m quantexp --help` prints the same. This page is generated
by `python -m quantexp.cli.options_page > docs/options.md`.

*Affects* says what depends on a setting. **weights**: the trained weights, so that another value trains again;
**result**: what is measured or reported, so that another value is another run; **nothing**: only where files are read
or recorded.
"""
AFFECTS = {Affects.WEIGHTS: "weights", Affects.RESULT: "result", Affects.NOTHING: "nothing"}


def options_page() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION, "## A run\n", *_table("", Experiment)]
    parts += ["\n## A sweep (`-m`)\n", *_table("sweep.", SweepSettings)]
    for group, presets in groups().items():
        parts.append(f"\n## `{group}`\n")
        for name, summary, option in presets:
            parts.append(f"\n### `{group}={name}`\n\n{summary}\n")
            if option is not None:
                parts += _table(f"{group}.", option)
    return "\n".join(part.rstrip("\n") if part.startswith("|") else part for part in parts) + "\n"


def _table(prefix: str, settings: type[Settings]) -> Iterator[str]:
    fields = [field for field in dataclasses.fields(settings) if "help" in field.metadata]
    if not fields:
        return
    yield "| setting | default | values | affects | meaning |\n| --- | --- | --- | --- | --- |"
    types = get_type_hints(settings)
    for field in fields:
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        affects = AFFECTS[settings.affected_by(field.name)]
        cells = [f"`{prefix}{field.name}`", f"`{shown(default)}`", _values(field, types[field.name]), affects]
        yield f"| {' | '.join([*cells, str(field.metadata['help'])])} |"


def _values(field: dataclasses.Field[object], kind: object) -> str:
    """Return the names that a field takes, or the bounds of its number."""
    if members := names_of(kind):
        return ", ".join(member.value for member in members)
    low, high, above = (field.metadata.get(name) for name in ("at_least", "at_most", "above"))
    parts = [f"above {above}"] if above is not None else [f"from {low}"] if low is not None else []
    return " ".join([*parts, *([f"to {high}"] if high is not None else [])])


if __name__ == "__main__":
    print(options_page(), end="")
