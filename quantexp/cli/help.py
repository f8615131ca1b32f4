"""The text of `--help`, generated from the options: their docstrings, fields, defaults and bounds."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from textwrap import wrap
from typing import get_type_hints

from quantexp.config.experiment import Experiment
from quantexp.config.option import Option, Settings, names_of
from quantexp.config.quant import ByLayer, Quant
from quantexp.config.sweep import SweepSettings

WIDTH = 110

HEADER = """\
quantexp trains or loads a network, quantizes it, proves that it was quantized, and measures on the CPU how
much smaller, faster and less accurate it became. Every run is recorded in MLflow.

usage: python -m quantexp [KEY=VALUE ...]               one run
       python -m quantexp -m KEY=VALUE,VALUE ...        a sweep: one run for each combination

examples:
  python -m quantexp data=sample                        a first look, needs no network
  python -m quantexp task=sst2 quant=qat                train with fake quantization, compare with the float model
  python -m quantexp quant=none precision=bf16          the network cast to bf16
  python -m quantexp model=lenet5 quant=static          a network with convolutions
  python -m quantexp task=images data_dir=photos task.size=96 model=torchvision   your photos, MobileNetV2
  python -m quantexp task=text data_dir=reviews model=lstm quant=dynamic   your sentences in train.csv, an LSTM
  python -m quantexp task=sst2 model=transformers model.path=FOLDER quant=dynamic   a folder of Hugging Face
  python -m quantexp quant=static quant.engine=onednn quant.observer=minmax batch_size=[1,8,64]
  python -m quantexp -m task=mnist,sst2 quant=none,dynamic,static,qat,amp
  python -m quantexp -m seed=0,1,2 quant=static,qat     compare over seeds
  python -m quantexp -m sweep.name=night quant=static,qat   a named sweep: run it again to resume
  python -m quantexp experiment=lab                     a committed sweep, here the whole lab
  python -m quantexp study=compatibility model=custom model.target=nets.Wide   a new network: what works for it?
  python -m quantexp study=sensitivity quant=static     each layer quantized alone, and all but it
  python -m quantexp study=search study.max_accuracy_drop=0.003   which layers to quantize within a bound
  python -m quantexp study=affine                       the arithmetic: error, bytes, the effect of outliers
  python -m quantexp data_dir=/data/sets task=mnist     read data from your own folder
  mlflow ui                                             look at the recorded runs

afterwards:
  python -m quantexp.report SWEEP                       tables, pictures and a page for a recorded sweep
  python -m quantexp.compare STORE STORE                the same experiments of several machines side by side
  python -m quantexp.gate RUN_OR_SWEEP --min-speedup 2  for CI: does the quantized network keep these bounds?
  python -m quantexp.register SWEEP --name NAME         the best network of a sweep, in MLflow's model registry
  python -m quantexp.reproduce RUN_ID                   repeat a recorded run, and compare both
  python -m quantexp.sync                               deliver results that their server did not take
  python -m quantexp.doctor                             what works on this machine
"""

FOOTER = """\
show the composed configuration: --cfg job --resolve         show a group: --info defaults
shell completion, bash:          eval "$(quantexp -sc install=bash)"
your own options:                --config-dir DIR adds the groups and values in DIR
all flags of Hydra:              --hydra-help
"""


def help_text() -> str:
    """Return the whole help: usage, examples, every key with its values, every setting of every option."""
    blocks = [HEADER, "", "settings of a run (KEY=VALUE)\n", *_fields("", Experiment)]
    blocks += ["\nsettings of a sweep (with -m)\n", *_fields("  sweep.", SweepSettings)]
    for group, presets in groups().items():
        blocks.append(f"\n{group}={'|'.join(name for name, _, _ in presets)}\n")
        shown: set[str] = set()
        for name, summary, cls in presets:
            blocks.append(_entry(f"  {group}={name}", summary))
            if cls is not None:
                entries = _fields(f"    {group}.", cls)
                blocks += [line for line in entries if line not in shown]
                if again := [_name(line) for line in entries if line in shown]:
                    blocks.append(_entry("    and, as above", ", ".join(again)))
                shown.update(entries)
    return "\n".join(line.rstrip("\n") for line in [*blocks, "", FOOTER])


def groups() -> dict[str, list[tuple[str, str, type[Option] | None]]]:
    """Return the values of each group: name, a line of description, and the class of its option if it has one.

    The values are the committed YAML files. A file without an option of that name is a preset of another option, and
    its first comment is the description.
    """
    from quantexp.cli.schemas import conf_dir
    from quantexp.config import OPTIONS

    classes = {(option.group, option.name): option for option in OPTIONS}
    groups: dict[str, list[tuple[str, str, type[Option] | None]]] = {}
    for group in dict.fromkeys([*(option.group for option in OPTIONS), "experiment"]):
        names = [path.stem for path in sorted((conf_dir() / group).glob("*.yaml"))]
        names.sort(key=lambda name: list(classes).index((group, name)) if (group, name) in classes else len(classes))
        groups[group] = []
        for name in names:
            cls = classes.get((group, name))
            summary = _summary(cls) if cls else _comment(conf_dir() / group / f"{name}.yaml")
            groups[group].append((name, summary, cls))
    return groups


def _comment(path: Path) -> str:
    """Return the first comment of a config that is a description; `# @package` is Hydra's."""
    lines = (line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next(line for line in lines if not line.startswith("@package"))


def _summary(cls: type[Option]) -> str:
    text = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    if issubclass(cls, Quant):
        text += f" Precision: {', '.join(cls.precisions)}."
    return text


def _fields(prefix: str, cls: type[Settings]) -> list[str]:
    types = get_type_hints(cls)
    lines = []
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        text = field.metadata["help"]
        if members := cls.flows if field.name == "flow" and issubclass(cls, ByLayer) else names_of(types[field.name]):
            names = [member.value for member in members]
            text += "" if all(name in text for name in names) else f": {', '.join(names)}"
        lines.append(_entry(f"{prefix or '  '}{field.name}={shown(default)}", text))
    return lines


def _name(entry: str) -> str:
    return entry.strip().partition("=")[0]


def shown(value: object) -> str:
    """Return a default as it is typed."""
    if value is None:
        return "null"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return str(value)


def _entry(head: str, text: str) -> str:
    """Lay out one entry in two columns; a head that is too long gets a line of its own."""
    column = 42
    body = wrap(text, WIDTH - column) or [""]
    if len(head) >= column:
        return "\n".join([head, *(" " * column + line for line in body)])
    return "\n".join([head.ljust(column) + body[0], *(" " * column + line for line in body[1:])])
