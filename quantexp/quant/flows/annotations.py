"""The annotations that a quantizer of PT2E leaves in a graph."""

from __future__ import annotations

from torch import Tensor, fx


def without_integers(annotated: fx.GraphModule) -> fx.GraphModule:
    """Remove, in place, the annotations of integers, such as of a sum of positions, which cannot be observed."""
    for node in annotated.graph.nodes:
        found = node.meta.get("quantization_annotation")
        values = (source.meta.get("val") for source in (found.input_qspec_map if found else ()))
        if any(isinstance(value, Tensor) and not value.is_floating_point() for value in values):
            del node.meta["quantization_annotation"]
    return annotated
