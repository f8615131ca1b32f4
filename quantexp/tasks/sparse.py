"""Batches that are mostly zero, such as counts of words, for training: a first Linear takes only what is not zero.

    y[i] = bias + sum over the columns j with x[i, j] ≠ 0 of x[i, j] · weight[:, j]

A sentence of ten words has ten such columns of a vocabulary of 5,000, and the gradient of the weights has no others.
`Sparse` is a tensor for any network: Linear, and the fake quantization of inputs in QAT, take its few values; for
everything else it becomes dense. `ByColumn` does the same for weights that are fake-quantized. The sums are in another
order than in a dense product, so the last bits differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree

from quantexp.tasks.inputs import Batch

MOST = 0.05  # the share of values that are not zero up to which the products are taken this way

_attributes: Any = Tensor  # whose descriptors mypy does not know
_ASKS: frozenset[Any] = frozenset(  # what is known without the values
    {
        _attributes.shape.__get__,
        _attributes.dtype.__get__,
        _attributes.device.__get__,
        _attributes.layout.__get__,
        _attributes.ndim.__get__,
        _attributes.requires_grad.__get__,
        _attributes.is_quantized.__get__,
        Tensor.dim,
        Tensor.size,
        Tensor.numel,
        Tensor.__len__,
        Tensor.is_floating_point,
    }
)
_LINEAR: frozenset[Any] = frozenset({functional.linear, torch.ops.aten.linear.default})
_FAKE_QUANT: frozenset[Any] = frozenset(
    {torch.fused_moving_avg_obs_fake_quant, torch.ops.aten.fused_moving_avg_obs_fake_quant.default}
)


class Deferred(Tensor):
    """A float matrix on the CPU whose values are computed when they are asked for."""

    dense: Tensor | None

    @classmethod
    def _of_shape(cls, rows: int, columns: int, dtype: torch.dtype) -> Any:
        made: Any = Tensor._make_wrapper_subclass(cls, (rows, columns), dtype=dtype)
        made.dense = None
        return made

    def to_dense(self) -> Tensor:  # type: ignore[override]
        """Return the matrix as a usual tensor; later calls return the same one, which may have been changed."""
        if self.dense is None:
            self.dense = self._computed()
        return self.dense

    def _computed(self) -> Tensor:
        raise NotImplementedError

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute `func` from the few values of a `Sparse` if that is possible, else from dense matrices."""
        given = dict(kwargs or {})
        first = args[0] if args else None
        if func in _ASKS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **given)
        if isinstance(first, Sparse) and first.dense is None:
            if func in _LINEAR and _can_multiply(*args[1:], **given):
                return _product(first, *args[1:], **given)
            if func in _FAKE_QUANT and not given:
                return first.mapped(lambda values: func(values, *args[1:]))
            if _changes_nothing(func, first, args[1:], given):
                return first
        return func(*_pytree.tree_map(_as_dense, args), **_pytree.tree_map(_as_dense, given))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch calls it on the class
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute an operator that was called from C++ from dense matrices."""
        return func(*_pytree.tree_map(_as_dense, args), **_pytree.tree_map(_as_dense, dict(kwargs or {})))


class Sparse(Deferred):
    """A matrix (examples, columns) that is given by its values that are not zero.

    Row i has `entries[starts[i] : starts[i + 1]]` in the columns `columns[starts[i] : starts[i + 1]]`, all different.
    """

    entries: Tensor
    columns: Tensor
    starts: Tensor

    @staticmethod
    def __new__(cls, entries: Tensor, columns: Tensor, starts: Tensor, width: int) -> Self:
        """Make the matrix of `width` columns; `starts` has one number more than there are rows."""
        made = cls._of_shape(len(starts) - 1, width, entries.dtype)
        made.entries, made.columns, made.starts = entries, columns, starts
        return made  # type: ignore[no-any-return]

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Sparse:
        """Return the matrix with `function` of each value; it sees a zero too, and must keep it."""
        values: Tensor = function(torch.cat([self.entries, self.entries.new_zeros(1)]))
        return Sparse(values[:-1], self.columns, self.starts, self.shape[1])

    def _computed(self) -> Tensor:
        rows, width = self.shape
        line = torch.repeat_interleave(torch.arange(rows), self.starts.diff())
        dense = torch.zeros(rows, width, dtype=self.entries.dtype)
        dense[line, self.columns] = self.entries
        return dense


class ByColumn(Deferred):
    """A function of weights (outputs, columns); in a product with a `Sparse`, of those in its columns only.

    `function` takes any columns of the weights, transposed, and returns their new values, transposed as well.
    """

    weight: Tensor
    function: Callable[[Tensor], Tensor]

    @staticmethod
    def __new__(cls, weight: Tensor, function: Callable[[Tensor], Tensor]) -> Self:
        """Make the function of weights that `have_columns_together`."""
        made = cls._of_shape(weight.shape[0], weight.shape[1], weight.dtype)
        made.weight, made.function = weight, function
        return made  # type: ignore[no-any-return]

    def some(self, columns: Tensor) -> Tensor:
        """Return the function of the weights in these columns, shape (columns, outputs)."""
        return self.function(functional.embedding(columns, self.weight.t()))

    def _computed(self) -> Tensor:
        return self.function(self.weight.t()).t()


def sparse(dense: Tensor) -> Sparse:
    """Return a dense matrix as a sparse one."""
    line, columns = dense.nonzero(as_tuple=True)
    starts = torch.searchsorted(line, torch.arange(len(dense) + 1))
    return Sparse(dense[line, columns], columns, starts, dense.shape[1])


def mostly_zero(values: Tensor) -> bool:
    """Return whether these are examples of flat features of which so few are not zero that `sparse` is faster."""
    flat = values.dim() == 2 and values.dtype is torch.float32
    return flat and int(values.count_nonzero()) <= MOST * values.numel()


@contextmanager
def columns_together(model: nn.Module, batch: Batch) -> Iterator[None]:
    """In the context, keep the weights of Linear layers that a `Sparse` of the batch fits in the order of columns.

    Then the weights of a column lie side by side in memory. Their values and shapes stay as they are.
    """
    widths = {tensor.shape[1] for tensor in batch if isinstance(tensor, Sparse)}
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.in_features in widths]
    for layer in layers:
        layer.weight.data = layer.weight.data.t().contiguous().t()
    try:
        yield
    finally:
        for layer in layers:
            layer.weight.data = layer.weight.data.contiguous()


def have_columns_together(weight: Tensor) -> bool:
    """Return whether weights (outputs, columns) lie in memory as in `columns_together`."""
    return weight.dim() == 2 and not weight.is_contiguous() and weight.t().is_contiguous()


def _as_dense(value: Any) -> Any:
    return value.to_dense() if isinstance(value, Deferred) else value


def _can_multiply(weight: Tensor, bias: Tensor | None = None) -> bool:
    fits = isinstance(weight, ByColumn) or weight.t().is_contiguous()
    return fits and weight.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")


def _product(x: Sparse, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    columns = x.columns
    if isinstance(weight, ByColumn):
        used, columns = torch.unique(columns, return_inverse=True)
        rows = weight.some(used)
    else:
        rows = weight.t()
    sums = functional.embedding_bag(columns, rows, x.starts[:-1], mode="sum", per_sample_weights=x.entries)
    return sums if bias is None else sums + bias


def _changes_nothing(func: Any, x: Sparse, args: Sequence[Any], given: Mapping[str, Any]) -> bool:
    """Return whether a call gives `x` itself, as .flatten(1) and .to(device) do on the CPU."""
    if func is Tensor.float:
        return x.dtype is torch.float32
    if func in (Tensor.flatten, torch.flatten):
        return (*args, *given.values()) in ((1,), (1, -1))
    if func is Tensor.to and len(args) == 1 and not given:
        return args[0] in (x.dtype, x.device, "cpu")
    return False
