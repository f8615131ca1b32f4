"""What a task needs to prepare raw inputs as it prepared its data; it is stored with the network."""

from __future__ import annotations

from dataclasses import dataclass

from quantexp.results import InputSpec


@dataclass(frozen=True)
class Preparation:
    """What is known about the inputs once the data were read, besides the settings of the task.

    Attributes:
        inputs: The InputSpecs of the network.
        vocabulary: The words that are counted or numbered, in the order of the features; empty without words.
        tokenizer: The content of a `tokenizer.json` of Hugging Face; empty without one.
        class_names: The names of the classes in the order of the labels; empty where they are only numbers.
    """

    inputs: tuple[InputSpec, ...] = ()
    vocabulary: tuple[str, ...] = ()
    tokenizer: str = ""
    class_names: tuple[str, ...] = ()
