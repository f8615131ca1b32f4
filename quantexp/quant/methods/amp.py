"""Automatic mixed precision: the network is trained from scratch under autocast, and runs under autocast.

Without labels nothing is trained, and the float network itself runs under autocast.
"""

from __future__ import annotations

from torch import nn

from quantexp.config import Amp
from quantexp.quant.flows.attention import call_all_layers
from quantexp.quant.inspection.promise import Promise, Quantized
from quantexp.quant.methods.casting import Autocast
from quantexp.quant.methods.none import DTYPES
from quantexp.quant.methods.work import Form, Work, weight_settings
from quantexp.results import Training
from quantexp.state.copies import copied, materialized
from quantexp.training.cache import Trained
from quantexp.training.loop import fit


def quantize(option: Amp, work: Work) -> Quantized:
    """Train a network under autocast, from the same initial weights as the float network."""
    baseline, data, precision = work.baseline, work.data, work.form.precision

    def run_training(model: nn.Module) -> Training:
        """Train with the recipe of the float network."""
        label, dtype = f"amp {precision}", DTYPES[precision]
        return fit(model, data.train, data.objective, work.train, seed=baseline.seed, label=label, autocast=dtype)

    if baseline.can_train:
        trained = baseline.trained_once(
            "amp", work.train, weight_settings(option, work.form), baseline.fresh, run_training
        )
    else:
        trained = Trained(copied(baseline.model), None)
    promise = Promise("the operators that autocast casts", operators=precision)
    return Quantized(skeleton(option, trained.model, work.form), promise, training=trained.training)


def skeleton(option: Amp, network: nn.Module, form: Form) -> nn.Module:
    """Return `network` with the structure that `quantize` creates."""
    call_all_layers(network)  # the fused kernel of transformer layers takes one dtype only
    return Autocast(materialized(network), DTYPES[form.precision])
