"""The network that is trained and quantized."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from quantexp.config.inputs import Kind, Taken
from quantexp.config.option import WEIGHTS, Affects, Option, option
from quantexp.config.own import own_code_faults
from quantexp.config.torchvision import NETWORKS, RESCALING


@dataclass
class Model(Option):
    """A network that can be built for any task that gives a kind of input which it takes.

    `takes` has these kinds, the preferred one first; None where a user's class says so.
    """

    group: ClassVar[str] = "model"
    choice_affects: ClassVar[Affects] = WEIGHTS
    takes: ClassVar[tuple[Taken, ...] | None] = ()

    @property
    def learns_labels(self) -> bool:
        """Whether its output is about the labels of a task, so that it can be trained on them."""
        return True

    @property
    def size(self) -> int | None:
        """The side of the only images that it takes, in pixels; None where any will do."""
        return next((taken.size for taken in self.takes or () if taken.size), None)

    @property
    def usual_size(self) -> int | None:
        """The side of the images that it gets if no other is chosen; None for the usual one of the task."""
        return self.size or next((taken.usual_size for taken in self.takes or () if taken.usual_size), None)

    @property
    def image_channels(self) -> int | None:
        """The number of channels of the only images that it takes; None where any will do."""
        return next((taken.channels for taken in self.takes or () if taken.channels), None)


@dataclass
class Mlp(Model):
    """A multilayer perceptron: Linear and ReLU in turn, Linear at the end."""

    name: ClassVar[str] = "mlp"
    implementation: ClassVar[str] = "quantexp.models.mlp"
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.features),)

    hidden: list[int] | None = option(
        "widths of the hidden layers; null takes task.hidden", None, affects=WEIGHTS, at_least=1
    )


@dataclass
class Lenet5(Model):
    """LeNet-5: two convolutions and three linear layers, for 1x32x32 images (mnist, padded) and 3x32x32 ones."""

    name: ClassVar[str] = "lenet5"
    implementation: ClassVar[str] = "quantexp.models.lenet5"
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.image, size=32),)


class Predicts(StrEnum):
    """What an output is about: the label of the whole sequence, or the next token after each token."""

    label = "label"
    token = "token"


@dataclass
class Lstm(Model):
    """An embedding (of tokens), LSTM layers, and Linear on their mean; or on each state, as a language model does."""

    name: ClassVar[str] = "lstm"
    implementation: ClassVar[str] = "quantexp.models.lstm"
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.tokens), Taken(Kind.sequence))

    embedding: int = option("width of the embedding of tokens", 128, affects=WEIGHTS, at_least=1)
    hidden: int = option("width of the LSTM layers", 128, affects=WEIGHTS, at_least=1)
    layers: int = option("number of LSTM layers", 1, affects=WEIGHTS, at_least=1, at_most=64)
    predicts: Predicts = option(
        "label: that of the whole sequence; token: the next one after each token, as a language model does",
        Predicts.label,
        affects=WEIGHTS,
    )

    @property
    def learns_labels(self) -> bool:
        return self.predicts is Predicts.label


class Family(StrEnum):
    """The architectures of `model=bert`."""

    bert = "bert"
    distilbert = "distilbert"


@dataclass
class Bert(Model):
    """BERT or DistilBERT of Hugging Face with a head for classification, built with the sizes given here."""

    name: ClassVar[str] = "bert"
    implementation: ClassVar[str] = "quantexp.models.bert"
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.tokens),)

    family: Family = option("bert or distilbert", Family.bert, affects=WEIGHTS)
    hidden: int = option("width of the layers", 128, affects=WEIGHTS, at_least=1)
    layers: int = option("number of encoder layers", 2, affects=WEIGHTS, at_least=1, at_most=512)
    heads: int = option("attention heads of a layer; they share its width", 2, affects=WEIGHTS, at_least=1)
    feed_forward: int = option("width between the two Linear of a layer", 512, affects=WEIGHTS, at_least=1)
    dropout: float = option("share of values set to zero while training", 0.1, affects=WEIGHTS, at_least=0, at_most=0.9)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from head_faults(self.hidden, self.heads)


@dataclass
class Wav2Vec2(Model):
    """Wav2Vec 2.0 of Hugging Face with a head for classification, built with the sizes given here."""

    name: ClassVar[str] = "wav2vec2"
    implementation: ClassVar[str] = "quantexp.models.wav2vec2"
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.waveform),)

    channels: int = option("channels of the seven convolutions", 64, affects=WEIGHTS, at_least=1)
    hidden: int = option("width of the encoder; a multiple of 16", 128, affects=WEIGHTS, at_least=16)
    layers: int = option("number of encoder layers", 2, affects=WEIGHTS, at_least=1, at_most=512)
    heads: int = option("attention heads of a layer; they share its width", 2, affects=WEIGHTS, at_least=1)
    feed_forward: int = option("width between the two Linear of a layer", 512, affects=WEIGHTS, at_least=1)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from head_faults(self.hidden, self.heads)
        if self.hidden > 16 and self.hidden % 16:
            yield f"model.hidden must be a multiple of 16, the groups of a convolution, got {self.hidden}"


class Pooling(StrEnum):
    """How `model=transformers` comes from tokens to classes."""

    head = "head"
    mean = "mean"


@dataclass
class Transformers(Model):
    """A network in a folder of Hugging Face (config.json, safetensors), for sentences, images or sound."""

    name: ClassVar[str] = "transformers"
    implementation: ClassVar[str] = "quantexp.models.transformers"
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.tokens), Taken(Kind.image), Taken(Kind.waveform))

    path: str | None = option("the folder; without weights in it, they are random", None, affects=WEIGHTS)
    freeze: bool = option(
        "train only what the folder has no weights for, such as a new head; false: train all", True, affects=WEIGHTS
    )
    pooling: Pooling = option(
        "head: the head for classification of the network; mean: a Linear layer on the mean over the tokens, which "
        "sentence encoders are made for",
        Pooling.head,
        affects=WEIGHTS,
        unchanged=Pooling.head,
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not self.path:
            yield "model=transformers needs a folder of Hugging Face, got none; give model.path=FOLDER"


@dataclass
class Torchvision(Model):
    """A network for classification of torchvision, such as resnet18 or mobilenet_v2, for 3-channel images."""

    name: ClassVar[str] = "torchvision"
    implementation: ClassVar[str] = "quantexp.models.torchvision"
    takes: ClassVar[tuple[Taken, ...] | None] = (Taken(Kind.image, channels=3, usual_size=32),)

    network: str = option("its name in torchvision.models", "mobilenet_v2", affects=WEIGHTS)
    transform_input: bool | None = option(
        "googlenet and inception_v3 only: rescale inputs that are normalised as for ImageNet to -1 .. 1; "
        "null: with torchvision's own weights",
        None,
        affects=WEIGHTS,
    )

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.network not in NETWORKS:
            near = difflib.get_close_matches(str(self.network), NETWORKS, 3, 0.4)
            repair = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(NETWORKS)}"
            yield f"model.network must be a network for classification in torchvision, got {self.network!r}; {repair}"
        elif self.transform_input and self.network not in RESCALING:
            yield (
                f"model.transform_input is for {' and '.join(RESCALING)}, got it with model.network={self.network}; "
                "leave it out"
            )


@dataclass
class CustomModel(Model):
    """A network of your own: a class or a function, called as target(inputs=..., classes=..., **arguments)."""

    name: ClassVar[str] = "custom"
    implementation: ClassVar[str] = "quantexp.models.custom"
    takes: ClassVar[tuple[Taken, ...] | None] = None

    target: str | None = option(
        "the class or function, as package.module.Class; it is imported, so its code runs", None, affects=WEIGHTS
    )
    arguments: Any = option("what else it is called with, as in {width: 64}", None, affects=WEIGHTS)

    def __post_init__(self) -> None:
        if self.arguments is None:  # the default: a dict in its place could only be added to, with +
            self.arguments = {}
        super().__post_init__()

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from own_code_faults("model", self.target, self.arguments, given=("inputs", "classes"))


def head_faults(hidden: int, heads: int) -> Iterator[str]:
    """Yield the fault of a width that attention heads cannot share."""
    if heads >= 1 and hidden % heads:
        yield f"model.hidden must be a multiple of model.heads, got {hidden} and {heads}"


MODELS: tuple[type[Model], ...] = (Mlp, Lenet5, Torchvision, Lstm, Bert, Wav2Vec2, Transformers, CustomModel)
