"""Networks of the package transformers: one that is in a folder, and what those that are built from sizes share.

Only safetensors are read, and no code of the folder is executed.
"""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import Kind, Pooling, Transformers
from quantexp.models import folder
from quantexp.results import InputSpec
from quantexp.system.errors import ConfigError
from quantexp.system.extras import before_torchao
from quantexp.tasks.inputs import examples

log = logging.getLogger(__name__)

NAMES = {  # of the inputs of a network of transformers, in our order
    Kind.tokens: ("input_ids", "attention_mask"),
    Kind.image: ("pixel_values",),
    Kind.waveform: ("input_values",),
}
LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
HEADS = {
    Kind.tokens: "AutoModelForSequenceClassification",
    Kind.image: "AutoModelForImageClassification",
    Kind.waveform: "AutoModelForAudioClassification",
}


def build(model: Transformers, inputs: Sequence[InputSpec], classes: int) -> nn.Module:
    """Build the network of the folder with its weights, if it has any. Raises ConfigError if it cannot be built."""
    kind = kind_of(inputs)
    with quiet(f"model.path={model.path} must be a network of transformers for {kind} of this size"):
        import transformers

        configuration = transformers.AutoConfig.from_pretrained(folder.path_of(model), **LOCAL)
        _check_tokens(model, configuration, inputs)
        if configuration.num_labels != classes:
            configuration.num_labels = classes
        if model.pooling is Pooling.mean:
            _check_pooling(kind)
            encoder, fresh = _loaded(transformers.AutoModel, model, configuration)
            network: nn.Module = MeanPooled(encoder, configuration.hidden_size, classes).train()
            fresh = {*(f"encoder.{name}" for name in fresh), *MeanPooled.NEW}
        else:
            network, fresh = _loaded(getattr(transformers, HEADS[kind]), model, configuration)
            network = returning_logits(network, kind)
        network = _tried(network, inputs)
    if not folder.has_weights(model):
        return network
    if fresh:
        _say(f"new weights, as {model.path} has none of this size: {_shortened(sorted(fresh))}")
        if model.pooling is Pooling.head and folder.averages(model):
            _say(f"the embeddings of {model.path} are means over the tokens: consider model.pooling=mean")
    if model.freeze:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in fresh)
    return network


class MeanPooled(nn.Module):
    """A linear layer on the mean of the last hidden states over the tokens that are no padding."""

    NEW = ("classifier.weight", "classifier.bias")

    def __init__(self, encoder: nn.Module, hidden: int, classes: int) -> None:
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # type: ignore[assignment]  # what it computes would not be used
        self.encoder = encoder
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        logits: Tensor = self.classifier((states * mask).sum(1) / mask.sum(1).clamp(min=1))
        return logits


def kind_of(inputs: Sequence[InputSpec]) -> Kind:
    """Return the kind of input by its specs."""
    if inputs[0].dtype == "int64":
        return Kind.tokens
    return Kind.image if len(inputs[0].shape) == 3 else Kind.waveform


def returning_logits(network: nn.Module, kind: Kind) -> nn.Module:
    """Make a network of transformers take our inputs by position, and return its logits, as one tensor.

    It is not wrapped, so that its layers keep their names.
    """
    base: Any = type(network)
    names = NAMES[kind]

    def forward(self: Any, *batch: Tensor) -> Tensor:
        logits: Tensor = base.forward(self, **dict(zip(names, batch, strict=True))).logits
        return logits

    network.__class__ = type(base.__name__, (base,), {"forward": _named(forward, names), "__module__": base.__module__})
    return network.train()


@contextmanager
def quiet(rule: str) -> Iterator[None]:
    """Build without messages of transformers; convert its errors to one that states the rule.

    Raises:
        ConfigError: For all errors but those of quantexp and MemoryError.
    """
    before_torchao()
    from transformers.utils import logging as hub_messages

    messages: Any = hub_messages
    before, bars = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # what it raises is not documented
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(
            f"{rule}, but it cannot be built and run ({reason}); correct the folder or the settings"
        ) from error
    finally:
        messages.set_verbosity(before)
        if bars:
            messages.enable_progress_bar()


def _loaded(kind: Any, model: Transformers, configuration: Any) -> tuple[nn.Module, set[str]]:
    """Return the network of a class of transformers, and the names of the weights that the folder does not have."""
    if not folder.has_weights(model):
        return kind.from_config(configuration, trust_remote_code=False), set()
    network, found = kind.from_pretrained(
        folder.path_of(model),
        config=configuration,
        use_safetensors=True,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # a head for another number of classes is made anew
        output_loading_info=True,
        **LOCAL,
    )
    return network, {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}


def _named(forward: Callable[..., Tensor], names: Sequence[str]) -> Callable[..., Tensor]:
    """Give a forward method of any inputs the signature with these names, which tracers read."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]

    @functools.wraps(forward)
    def called(self: Any, *batch: Tensor, **others: Tensor) -> Tensor:
        return forward(self, *batch, *(others[name] for name in names[len(batch) :]))

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called


@torch.no_grad()
def _tried(network: nn.Module, inputs: Sequence[InputSpec]) -> nn.Module:
    """Run the network once: some take other inputs of the same name, such as spectrograms. Raises what it raises."""
    if not next(network.parameters()).is_meta:
        network.eval()(*examples(inputs, 2))
    return network.train()


def _check_tokens(model: Transformers, configuration: Any, inputs: Sequence[InputSpec]) -> None:
    """Raise ConfigError if there are more different tokens than the network embeds, or sentences are too long."""
    if inputs[0].dtype != "int64":
        return
    highest, length = int(inputs[0].high or 0), inputs[0].measured[-1]
    known = getattr(configuration, "vocab_size", None)
    if known is not None and highest >= known:
        raise ConfigError(
            f"model.path={model.path} embeds {known:,} tokens, the task has {highest + 1:,}; use the tokenizer of the "
            "network (task.tokenizer=FOLDER), or lower task.vocabulary"
        )
    longest = getattr(configuration, "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ConfigError(f"model.path={model.path} takes at most {longest} tokens, got task.length={length}; lower it")


def _check_pooling(kind: Kind) -> None:
    if kind is not Kind.tokens:
        raise ConfigError(f"model.pooling=mean is for tokens, got a network for {kind}; use model.pooling=head")


@functools.cache
def _say(text: str) -> None:
    """Say something once: a run builds its network several times."""
    log.info("model     %s", text)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
