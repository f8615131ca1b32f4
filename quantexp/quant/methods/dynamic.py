"""Dynamic quantization of Linear and recurrent layers: weights beforehand, inputs with the range of each call."""

from __future__ import annotations

from torch import nn

from quantexp.config import Dynamic
from quantexp.quant.flows import flow_of
from quantexp.quant.flows.embeddings import embeddings, unfit
from quantexp.quant.flows.working import working, working_copy
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.work import Form, Work
from quantexp.quant.selection import kept_in_float
from quantexp.state.copies import materialized
from quantexp.system.errors import QuantizationError


def quantize(option: Dynamic, work: Work) -> Quantized:
    """Quantize a copy of the float network; int8 computes in int8, fp16 stores fp16 and computes in float.

    Raises:
        QuantizationError: If embeddings are asked for, and the network has none to quantize.
    """
    model, precision = work.baseline.model, work.form.precision
    handles = getattr(flow_of(option), "DYNAMICALLY", "nn.Linear")  # a flow of the user may not say more
    kept, required, left = kept_in_float(option, model), embeddings(option, model), {}
    if option.embeddings:
        handles, left = f"{handles}, nn.Embedding and nn.EmbeddingBag", unfit(model)
        if not required:
            why = "; ".join(f"{name}: {reason}" for name, reason in {**left, **kept}.items()) or "it has none"
            raise QuantizationError(
                f"quant.embeddings=true needs a network with an nn.Embedding or nn.EmbeddingBag to quantize ({why}); "
                "leave it out"
            )
    promise = Promise(handles, layers=precision, operators=precision, kept=kept, unfit=left, required=tuple(required))
    return Quantized(skeleton(option, working_copy(option, model), work.form), promise)


def skeleton(option: Dynamic, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with the structure that `quantize` creates."""
    with working(option.engine):
        network = materialized(network)
        quantized: nn.Module = flow_of(option).dynamic(option, network, form.precision, form.example, form.target)
        return quantized
