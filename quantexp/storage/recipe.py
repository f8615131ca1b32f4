"""The recipe that rebuilds a stored network: `recipe.json`, format 4. Format 3 can still be read.

options         task, model, quant and precision, each option with its name and settings
inputs          an InputSpec for each input tensor of the network
output          the number of classes, and their names if they have any
preprocessing   the kind of input that the task prepares from raw inputs
runtime         its name, the form of the network for it, and the batch sizes it was prepared for (empty: any)
attributes      numbers that the network has outside its state, by module and name
versions        the versions of quantexp, torch and torchao that stored the network
files           the other files of the folder by role, each with its name and SHA-256
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quantexp import models
from quantexp.config import RUNTIMES, Experiment, Kind, Option, plain
from quantexp.results import InputSpec
from quantexp.state.files import RECIPE, SAFE_STATE, sha256
from quantexp.system.environment import describe
from quantexp.system.errors import ModelError
from quantexp.tasks.data import TaskData
from quantexp.tasks.preparation import Preparation

EXPORTED = {runtime.name: runtime.file for runtime in RUNTIMES if runtime.file}  # by runtime
ARCHIVE = "network.zip"  # of several files, as OpenVINO writes them
VOCABULARY, TORCH_STATE = "vocabulary.txt", "state.pt"
TOKENIZER, CONFIGURATION = "tokenizer.json", "config.json"  # the names that Hugging Face gives them
FILES = {
    RECIPE: 2**20,
    VOCABULARY: 2**26,
    TOKENIZER: 2**26,
    CONFIGURATION: 2**20,
    SAFE_STATE: 2**33,
    TORCH_STATE: 2**33,
    **dict.fromkeys((*EXPORTED.values(), ARCHIVE), 2**33),
}  # the largest size in bytes that is downloaded
ROLES = {  # with the allowed file names
    "state": (SAFE_STATE, TORCH_STATE),
    "vocabulary": (VOCABULARY,),
    "tokenizer": (TOKENIZER,),
    "configuration": (CONFIGURATION,),
    "exported": (*dict.fromkeys(EXPORTED.values()), ARCHIVE),
}
FORMAT = 4
FIELDS = ("format", "options", "inputs", "output", "preprocessing", "runtime", "attributes", "versions", "files")
FIELDS_3 = ("format", "task", "model", "quant", "precision", "inputs", "classes")  # of format 3
PACKAGES = ("quantexp", "torch", "torchao")


@dataclass(frozen=True)
class Recipe:
    """The description from which a stored network is rebuilt and its inputs are prepared.

    `task`, `model` and `quant` are the settings of an option, with its name. `task` may be empty: then the network
    cannot predict on raw inputs. `kind` is the kind of input that it takes. `tokenizer` and `configuration` are the
    contents of files of Hugging Face, `exported` that of the file that the runtime executes; they are empty where there
    are none. `files` has the file names by role.
    """

    task: dict[str, Any]
    model: dict[str, Any]
    quant: dict[str, Any]
    precision: str
    inputs: tuple[InputSpec, ...]
    classes: int
    kind: str = Kind.features.value
    vocabulary: tuple[str, ...] = ()
    tokenizer: str = ""
    configuration: str = ""
    exported: bytes = b""
    class_names: tuple[str, ...] = ()
    runtime: str = "eager"
    target: str = "kernels"
    batch_sizes: tuple[int, ...] = ()
    attributes: Mapping[str, Mapping[str, int | float | bool]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Experiment, data: TaskData, kind: Kind) -> Recipe:
        """Return the recipe of the final network of an experiment."""
        wordless = hasattr(experiment.task, "vocabulary") and not (data.vocabulary or data.tokenizer)  # random inputs
        return cls(
            task={} if wordless else _described(experiment.task),
            model=_described(experiment.model),
            quant=_described(experiment.quant),
            precision=str(experiment.precision),
            inputs=data.inputs,
            classes=data.classes,
            kind=kind.value,
            vocabulary=data.vocabulary,
            tokenizer=data.tokenizer,
            configuration=models.configuration(experiment.model),
            class_names=data.class_names,
            runtime=experiment.runtime.name,
            target=experiment.runtime.target,
            versions={name: describe().packages[name] for name in PACKAGES},
        )

    @property
    def preparation(self) -> Preparation:
        """What prepares raw inputs, besides the settings of the task."""
        return Preparation(self.inputs, self.vocabulary, self.tokenizer, self.class_names)


def write(folder: Path, recipe: Recipe, state: str) -> None:
    """Write the recipe of a network whose state is in the file `state` of `folder`. Raises OSError."""
    files = {"state": state}
    contents = {
        "vocabulary": (VOCABULARY, "\n".join(recipe.vocabulary).encode()),
        "tokenizer": (TOKENIZER, recipe.tokenizer.encode()),
        "configuration": (CONFIGURATION, recipe.configuration.encode()),
        "exported": (_exported_name(recipe), recipe.exported),
    }
    for role, (name, content) in contents.items():
        if name and content:
            (folder / name).write_bytes(content)
            files[role] = name
    described = {
        "format": FORMAT,
        "options": {
            "task": recipe.task,
            "model": recipe.model,
            "quant": recipe.quant,
            "precision": recipe.precision,
        },
        "inputs": [asdict(spec) for spec in recipe.inputs],
        "output": {"classes": recipe.classes, "names": list(recipe.class_names)},
        "preprocessing": {"kind": recipe.kind},
        "runtime": {"name": recipe.runtime, "target": recipe.target, "batch_sizes": list(recipe.batch_sizes)},
        "attributes": recipe.attributes,
        "versions": dict(recipe.versions),
        "files": {role: {"name": name, "sha256": sha256(folder / name)} for role, name in files.items()},
    }
    (folder / RECIPE).write_text(json.dumps(described, indent=1), encoding="utf-8")


def _exported_name(recipe: Recipe) -> str:
    """Return the name of the file that the runtime executes; empty if quantexp does not know the runtime."""
    name = EXPORTED.get(recipe.runtime, "")
    return ARCHIVE if name and zipfile.is_zipfile(io.BytesIO(recipe.exported)) else name


def read(folder: Path) -> Recipe:
    """Read the recipe in a folder; its content is not trusted.

    Raises:
        ModelError: If this version of quantexp cannot read the format.
        ValueError, KeyError, TypeError: If it is damaged, or another file has changed since it was stored.
    """
    described = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    if described["format"] == 3:
        return _format_3(described, folder)
    if described["format"] != FORMAT:
        raise ModelError(
            f"{folder / RECIPE} has format {described['format']!r}, this version of quantexp reads 3 and {FORMAT}; "
            "re-run the experiment, or load the network with the version of quantexp that wrote it"
        )
    _check_fields(described, FIELDS)
    files = _files(described["files"], folder)
    options, runtime = described["options"], described["runtime"]
    return Recipe(
        task=dict(options["task"]),
        model=dict(options["model"]),
        quant=dict(options["quant"]),
        precision=str(options["precision"]),
        inputs=tuple(InputSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in described["inputs"]),
        classes=int(described["output"]["classes"]),
        kind=Kind(described["preprocessing"]["kind"]).value,
        vocabulary=_vocabulary(folder) if "vocabulary" in files else (),
        tokenizer=_text(folder, files, "tokenizer"),
        configuration=_text(folder, files, "configuration"),
        exported=(folder / files["exported"]).read_bytes() if "exported" in files else b"",
        class_names=_class_names(described["output"]),
        runtime=str(runtime["name"]),
        target=str(runtime["target"]),
        batch_sizes=tuple(int(size) for size in runtime["batch_sizes"]),
        attributes={name: dict(own) for name, own in described.get("attributes", {}).items()},
        versions=dict(described["versions"]),
        files=files,
    )


def _format_3(described: dict[str, Any], folder: Path) -> Recipe:
    """Read a recipe of format 3, in which every network takes flat features."""
    _check_fields(described, FIELDS_3)
    files = {"state": SAFE_STATE if (folder / SAFE_STATE).is_file() else TORCH_STATE}
    if (folder / VOCABULARY).is_file():
        files["vocabulary"] = VOCABULARY
    return Recipe(
        task=dict(described["task"]),
        model=dict(described["model"]),
        quant=dict(described["quant"]),
        precision=str(described["precision"]),
        inputs=(InputSpec("features", (int(described["inputs"]),)),),
        classes=int(described["classes"]),
        vocabulary=_vocabulary(folder) if "vocabulary" in files else (),
        files=files,
    )


def _check_fields(described: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := [name for name in described if name not in known]:
        raise ValueError(f"{RECIPE} may only have the fields {', '.join(known)}, it has {unknown[0]!r}")


def _files(described: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the names of the files by role. Raises ValueError if one has changed since it was stored."""
    for role, file in described.items():
        if file["name"] not in ROLES.get(role, ()):
            known = ", ".join(dict.fromkeys(name for names in ROLES.values() for name in names))
            raise ValueError(f"the files of a stored network must be {known}; got {role}: {file['name']!r}")
        if sha256(folder / file["name"]) != file["sha256"]:
            raise ValueError(f"{file['name']} is not the file that was stored")
    return {role: str(file["name"]) for role, file in described.items()}


def _text(folder: Path, files: Mapping[str, str], role: str) -> str:
    return (folder / files[role]).read_bytes().decode() if role in files else ""


def _class_names(output: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes, empty where they are only numbers. Raises ValueError."""
    names = tuple(output.get("names", ()))
    if names and (len(names) != int(output["classes"]) or not all(isinstance(name, str) for name in names)):
        raise ValueError(f"the names of {output['classes']} classes must be as many texts, got {len(names)}: {names!r}")
    return names


def _vocabulary(folder: Path) -> tuple[str, ...]:
    words = (folder / VOCABULARY).read_bytes().decode().split("\n")
    if wrong := [word for word in words if word.split() != [word]]:
        raise ValueError(f"{VOCABULARY} must have one word per line, it has {wrong[0]!r}")
    if len(set(words)) < len(words):
        raise ValueError(f"{VOCABULARY} must have each word only once")
    return tuple(words)


def _described(option: Option) -> dict[str, Any]:
    return {"name": option.name, **plain(asdict(option))}
