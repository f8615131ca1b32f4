"""What a study of several runs says of its variants."""

from __future__ import annotations

from quantexp.config import (
    Compiled,
    Dynamic,
    Eager,
    Experiment,
    Flow,
    NoQuant,
    OnnxRuntime,
    Qat,
    Quant,
    Runtime,
    Search,
    Static,
)
from quantexp.runner.study import command
from quantexp.runner.tracked import Request

CHOICES = {"task": "mnist", "model": "mlp", "quant": "static", "study": "search"} | {
    "train": "default",
    "benchmark": "paired",
    "tracking": "local",
}


def test_a_variant_of_a_study_in_a_sweep_is_typed_without_study_and_sweep() -> None:
    typed = ["study=search", "study.resume=false", "sweep.name=night", "quant=static", "seed=3"]
    experiment = Experiment(study=Search(), seed=3)  # type: ignore[arg-type]
    variants = {
        "quant=static seed=3 'quant.include=[layers.0]'": Static(include=["layers.0"]),
        "seed=3 quant=qat": Qat(),
    }
    for told, quant in variants.items():
        variant = Experiment(quant=quant, seed=3)
        assert command(experiment, variant, Request(CHOICES, typed, "")) == f"python -m quantexp {told}"


def test_a_variant_in_another_runtime_is_typed_with_it_and_without_the_settings_of_the_first() -> None:
    typed = ["study=search", "runtime=compiled", "runtime.max_autotune=true", "quant=dynamic", "seed=3"]
    experiment = Experiment(quant=Dynamic(), runtime=Compiled(max_autotune=True), study=Search(), seed=3)
    variants: dict[str, tuple[Quant, Runtime]] = {
        "quant=dynamic seed=3 runtime=onnxruntime quant.flow=onnxruntime": (
            Dynamic(flow=Flow.onnxruntime),
            OnnxRuntime(),
        ),
        "seed=3 quant=none runtime=onnxruntime": (NoQuant(), OnnxRuntime()),
        "quant=dynamic seed=3 runtime=eager": (Dynamic(), Eager()),
    }
    for told, (quant, runtime) in variants.items():
        variant = Experiment(quant=quant, runtime=runtime, seed=3)
        assert command(experiment, variant, Request(CHOICES, typed, "")) == f"python -m quantexp {told}"
