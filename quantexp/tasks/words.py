"""Sentences as inputs: bags of words, or tokens with a mask.

Words are separated by white space. The most frequent words of the training sentences are the vocabulary; ties are
broken by first appearance, so that it is the same everywhere. Tokens are numbers of these words, or of a tokenizer of
Hugging Face; of a sentence, the first `task.length` of them are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from quantexp.config import Kind, Sentences
from quantexp.results import InputSpec
from quantexp.system.errors import ConfigError, DataError, ModelError
from quantexp.system.extras import require
from quantexp.tasks.data import Split, taken_rows
from quantexp.tasks.inputs import Batch
from quantexp.tasks.preparation import Preparation
from quantexp.tasks.sources import TOKENIZER, tokenizer_file
from quantexp.tasks.sparse import MOST, Sparse

PADDING, UNKNOWN, SPECIAL = 0, 1, 2  # the first tokens; those of the vocabulary follow
PADDING_NAMES = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")  # how tokenizers call it


@dataclass(frozen=True)
class BagOfWords(Split):
    """Sentences as the vocabulary indices of their words; the word counts are computed when a batch is made.

    Sentence i is `words[starts[i] : starts[i + 1]]`, without the words outside the vocabulary.
    """

    words: Tensor  # (words of all sentences,), int32
    starts: Tensor  # (examples + 1,), int64
    vocabulary: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def inputs(self, rows: Tensor) -> Batch:
        cell = self._cells(rows)
        counts = torch.zeros(len(rows) * self.vocabulary)
        return (counts.scatter_add_(0, cell, torch.ones(len(cell))).view(len(rows), self.vocabulary),)

    def training_inputs(self, rows: Tensor) -> Batch:
        """Return the same counts, as few of many are not zero."""
        if len(self.words) > MOST * len(self) * self.vocabulary:
            return self.inputs(rows)
        cell, counts = torch.unique(self._cells(rows), return_counts=True)
        starts = torch.searchsorted(cell, torch.arange(len(rows) + 1) * self.vocabulary)
        return (Sparse(counts.float(), cell % self.vocabulary, starts, self.vocabulary),)

    def _cells(self, rows: Tensor) -> Tensor:
        """Return, for each word of the sentences, the index of its count in a batch."""
        line, _, positions = _words_of(self.starts, rows)
        return line * self.vocabulary + self.words[positions]

    def take(self, rows: Tensor) -> BagOfWords:
        words, starts = _taken_words(self.words, self.starts, rows)
        return BagOfWords(taken_rows(self.labels, rows), words, starts, self.vocabulary)


@dataclass(frozen=True)
class Tokens(Split):
    """Sentences as tokens; a batch is their ids and a mask, int64, padded to `length` with the token `padding`.

    Sentence i is `ids[starts[i] : starts[i + 1]]`, at most `length` tokens.
    """

    ids: Tensor  # (tokens of all sentences,), int32
    starts: Tensor  # (examples + 1,), int64
    length: int
    padding: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def inputs(self, rows: Tensor) -> Batch:
        line, column, positions = _words_of(self.starts, rows)
        ids = torch.full((len(rows), self.length), self.padding)
        mask = torch.zeros((len(rows), self.length), dtype=torch.int64)
        ids[line, column] = self.ids[positions].long()
        mask[line, column] = 1
        return ids, mask

    def shortened(self, batch: Batch) -> Batch:
        """Return the batch without the columns that are padding in all sentences."""
        ids, mask = batch
        longest = max(int(mask.sum(1).max()), 1)
        return ids[:, :longest], mask[:, :longest]

    def take(self, rows: Tensor) -> Tokens:
        ids, starts = _taken_words(self.ids, self.starts, rows)
        return replace(self, labels=taken_rows(self.labels, rows), ids=ids, starts=starts)


def learned(task: Sentences, kind: Kind, training: Sequence[str]) -> Preparation:
    """Return the vocabulary of the training sentences, or the tokenizer. Raises DataError, ConfigError."""
    if kind is Kind.tokens and task.tokenizer is not None:
        tokenizer = _read_tokenizer(task.tokenizer)
        return Preparation(tokens(task, _tokenizer(tokenizer).get_vocab_size()), tokenizer=tokenizer)
    frequencies = Counter(chain.from_iterable(words_of(task, sentence) for sentence in training))
    vocabulary = tuple(word for word, _ in frequencies.most_common(task.vocabulary))
    found = Preparation(vocabulary=vocabulary)
    return replace(found, inputs=specs(task, kind, found))


def split(
    task: Sentences, kind: Kind, sentences: Sequence[str], labels: Sequence[int], preparation: Preparation
) -> Split:
    """Return a split of these sentences."""
    numbers = torch.tensor(labels, dtype=torch.int64)
    if kind is Kind.features:
        known = {word: number for number, word in enumerate(preparation.vocabulary)}
        found = [[known[word] for word in words_of(task, sentence) if word in known] for sentence in sentences]
        words, starts = _flat(found)
        return BagOfWords(numbers, words, starts, len(known))
    if preparation.tokenizer:
        tokenizer = _tokenizer(preparation.tokenizer)
        tokenizer.enable_truncation(task.length)
        encoded = tokenizer.encode_batch(list(sentences))
        ids, starts = _flat([one.ids for one in encoded])
        return Tokens(numbers, ids, starts, task.length, _padding(tokenizer))
    known = {word: number for number, word in enumerate(preparation.vocabulary, SPECIAL)}
    found = [[known.get(word, UNKNOWN) for word in words_of(task, sentence)[: task.length]] for sentence in sentences]
    return Tokens(numbers, *_flat(found), task.length, PADDING)


def specs(task: Sentences, kind: Kind, preparation: Preparation) -> tuple[InputSpec, ...]:
    """Return the InputSpecs for a vocabulary that was found."""
    if kind is Kind.features:
        return counts(len(preparation.vocabulary))
    if preparation.tokenizer:
        return tokens(task, _tokenizer(preparation.tokenizer).get_vocab_size())
    return tokens(task, len(preparation.vocabulary) + SPECIAL)


def expected(task: Sentences, kind: Kind) -> tuple[InputSpec, ...]:
    """Return the InputSpecs that are known without data: for a whole vocabulary, or that of the tokenizer."""
    if kind is Kind.features:
        return counts(task.vocabulary)
    if task.tokenizer is not None:
        return tokens(task, _tokenizer(_read_tokenizer(task.tokenizer)).get_vocab_size())
    return tokens(task, task.vocabulary + SPECIAL)


def counts(words: int) -> tuple[InputSpec, ...]:
    """Return the only input for a vocabulary of that many words: the count of each word, as float32."""
    return (InputSpec("counts", (words,), "float32", 0.0, 1.0),)


def tokens(task: Sentences, different: int) -> tuple[InputSpec, ...]:
    """Return the two inputs for so many different tokens: their ids and the mask, both int64."""
    shape = (task.length,)
    return InputSpec("ids", shape, "int64", 0, different - 1), InputSpec("mask", shape, "int64", 0, 1)


def encode(task: Sentences, kind: Kind, raw: Any, preparation: Preparation) -> tuple[Batch, bool]:
    """Prepare raw sentences: a str gives a batch of one and True, a list of n a batch of n and False.

    Raises:
        ModelError: If `raw` has another form.
    """
    sentences = [raw] if isinstance(raw, str) else raw
    rule = f"raw inputs of {task.name} must be a sentence, or a list of at least one sentence, each a str"
    if not isinstance(sentences, list | tuple) or not sentences:
        raise ModelError(f"{rule}; got {repr(raw)[:80]}")
    if wrong := [sentence for sentence in sentences if not isinstance(sentence, str)]:
        raise ModelError(f"{rule}; the list contains {repr(wrong[0])[:80]}")
    prepared = split(task, kind, sentences, [0] * len(sentences), preparation)
    return prepared.inputs(torch.arange(len(sentences))), isinstance(raw, str)


def words_of(task: Sentences, sentence: str) -> list[str]:
    """Return the words of a sentence."""
    return (sentence.lower() if getattr(task, "lowercase", False) else sentence).split()


def fingerprint(content: str, preparation: Preparation) -> str:
    """Return the fingerprint of data with the digest `content`, which a tokenizer changes."""
    both = f"{content} {preparation.tokenizer}"
    return hashlib.sha256(both.encode()).hexdigest() if preparation.tokenizer else content


def _flat(found: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return all numbers in one tensor, int32, and where each sentence starts in it."""
    numbers = torch.tensor(list(chain.from_iterable(found)), dtype=torch.int32)
    return numbers, torch.tensor([0, *map(len, found)]).cumsum(0)


def _words_of(starts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each word of the sentences in `rows`, its line, its column, and its position among all words."""
    lengths = starts[rows + 1] - starts[rows]
    line = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    column = torch.arange(len(line)) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return line, column, torch.repeat_interleave(starts[rows], lengths) + column


def _taken_words(words: Tensor, starts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    lengths = starts[rows + 1] - starts[rows]
    return words[_words_of(starts, rows)[2]], torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def _read_tokenizer(place: str) -> str:
    """Return the content of the tokenizer in a folder, or in a file. Raises DataError."""
    path = tokenizer_file(place)
    try:
        text = path.read_text(encoding="utf-8")
        if "model" not in json.loads(text):
            raise ValueError("it has no field `model`")
    except (OSError, ValueError) as error:
        raise DataError(
            f"task.tokenizer={place} must be a {TOKENIZER} of Hugging Face or a folder with one, but it cannot be read "
            f"({getattr(error, 'strerror', None) or error}); correct it, or make one with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        ) from error
    return text


@lru_cache(maxsize=2)
def _tokenizer(content: str) -> Any:
    """Return the tokenizer of Hugging Face. Raises ConfigError if the package is not there or cannot read it."""
    require("tokenizers", "a tokenizer of Hugging Face")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the package raises plain Exception
        raise ConfigError(f"the tokenizer cannot be read by tokenizers ({error}); save it again") from error
    tokenizer.no_padding()
    return tokenizer


def _padding(tokenizer: Any) -> int:
    return next((number for name in PADDING_NAMES if (number := tokenizer.token_to_id(name)) is not None), 0)
