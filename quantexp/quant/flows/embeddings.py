"""The embeddings whose weights torch.ao can store in int8."""

from __future__ import annotations

from torch import nn

from quantexp.config import Dynamic
from quantexp.quant.selection import kept_in_float

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)  # torch.ao quantizes only their weights, with a separate qconfig


def embeddings(option: Dynamic, model: nn.Module) -> list[str]:
    """Return the names of the embeddings to quantize; none unless `option.embeddings`."""
    if not option.embeddings:
        return []
    left = {**unfit(model), **kept_in_float(option, model)}
    return [name for name, module in model.named_modules() if type(module) in EMBEDDINGS and name not in left]


def unfit(model: nn.Module) -> dict[str, str]:
    """Return the embeddings that the int8 kernels do not support, by name, with the reason."""
    found = {}
    for name, module in model.named_modules():
        if type(module) not in EMBEDDINGS:
            continue
        if module.max_norm is not None:
            found[name] = "its rows are normalised in each call (max_norm), which the int8 kernel does not do"
        elif isinstance(module, nn.EmbeddingBag) and module.mode != "sum":
            found[name] = f"the int8 kernel computes sums only, not mode={module.mode}"
        elif isinstance(module, nn.EmbeddingBag) and module.padding_idx is not None:
            found[name] = "the int8 kernel also adds the rows of padding_idx"
    return found
