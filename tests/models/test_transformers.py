"""Networks of the package transformers: in a folder that save_pretrained wrote, or built from sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp import models
from quantexp.config import (
    Bert,
    DataSource,
    Dynamic,
    Experiment,
    Family,
    Model,
    NoQuant,
    Paired,
    Pooling,
    Sst2,
    Transformers,
)
from quantexp.config import Wav2Vec2 as Wav2Vec2Option
from quantexp.mission import attempt, run
from quantexp.results import InputSpec
from quantexp.storage.stored import load, save
from quantexp.system.errors import ConfigError
from tests.tasks.test_tokens import tokenizer

transformers = pytest.importorskip("transformers")

WORDS, LENGTH, CLASSES = 30, 8, 2
TOKENS = (InputSpec("ids", (LENGTH,), "int64", 0, WORDS - 1), InputSpec("mask", (LENGTH,), "int64", 0, 1))
IMAGE, SOUND = (InputSpec("pixels", (3, 16, 16)),), (InputSpec("sound", (800,)),)
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def bert(**changes: Any) -> Any:
    return transformers.BertConfig(**{"vocab_size": WORDS, "num_labels": CLASSES, **SMALL, **changes})


def written(folder: Path, network: nn.Module) -> Transformers:
    network.save_pretrained(folder)  # type: ignore[operator]
    return Transformers(path=str(folder))


def fresh(model: Model, inputs: tuple[InputSpec, ...] = TOKENS, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    return models.build(model, inputs, classes)


@torch.no_grad()
def given(network: nn.Module, *batch: Tensor) -> Tensor:
    logits: Tensor = network.eval()(*batch)
    return logits


def sentences() -> tuple[Tensor, Tensor]:
    ids = torch.arange(3 * LENGTH).view(3, LENGTH) % WORDS
    return ids, (torch.arange(LENGTH) < torch.tensor([[3], [8], [1]])).long()


def test_a_folder_gives_the_network_that_was_saved_there(tmp_path: Path) -> None:
    saved = transformers.BertForSequenceClassification(bert())
    ids, mask = sentences()
    expected = saved.eval()(input_ids=ids, attention_mask=mask).logits.detach()
    torch.testing.assert_close(given(fresh(written(tmp_path, saved)), ids, mask), expected)


def test_layers_keep_the_names_that_they_have_in_transformers(tmp_path: Path) -> None:
    saved = transformers.BertForSequenceClassification(bert())
    network = fresh(written(tmp_path, saved))
    assert [name for name, _ in network.named_modules()] == [name for name, _ in saved.named_modules()]


def test_images_and_sounds_are_taken_too(tmp_path: Path) -> None:
    vit = transformers.ViTConfig(image_size=16, patch_size=8, num_labels=CLASSES, **SMALL)
    hubert = transformers.HubertConfig(conv_dim=(8,) * 7, num_labels=CLASSES, **{**SMALL, "hidden_size": 16})
    for number, (saved, inputs) in enumerate(
        [
            (transformers.ViTForImageClassification(vit), IMAGE),
            (transformers.HubertForSequenceClassification(hubert), SOUND),
        ]
    ):
        network = fresh(written(tmp_path / str(number), saved), inputs)
        values = torch.randn(2, *inputs[0].measured)
        torch.testing.assert_close(given(network, values), saved.eval()(values).logits.detach())


def test_only_what_the_folder_lacks_is_trained_unless_all_is_asked_for(tmp_path: Path) -> None:
    encoder = written(tmp_path, transformers.BertModel(bert()))

    def trained(model: Transformers) -> set[str]:
        return {name for name, parameter in fresh(model).named_parameters() if parameter.requires_grad}

    assert trained(encoder) == {"classifier.weight", "classifier.bias"}
    encoder.freeze = False
    assert trained(encoder) == {name for name, _ in fresh(encoder).named_parameters()}


def test_a_head_for_another_number_of_classes_is_made_anew(tmp_path: Path) -> None:
    model = written(tmp_path, transformers.BertForSequenceClassification(bert(num_labels=5)))
    network = fresh(model, classes=3)
    ids, mask = sentences()
    assert given(network, ids, mask).shape == (3, 3)
    assert {name for name, one in network.named_parameters() if one.requires_grad} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_with_mean_pooling_a_linear_layer_sees_the_mean_over_the_tokens_without_padding(tmp_path: Path) -> None:
    option = written(tmp_path, transformers.BertModel(bert()))
    option.pooling = Pooling.mean
    network, (ids, mask) = fresh(option), sentences()
    encoder = transformers.BertModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    means = torch.stack([one[: int(count)].mean(0) for one, count in zip(states, mask.sum(1), strict=True)])
    head: Any = network.get_submodule("classifier")
    assert torch.allclose(given(network, ids, mask), head(means), atol=1e-6)
    learned = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert learned == ["classifier.weight", "classifier.bias"]
    assert not [name for name in network.state_dict() if "pooler" in name], "nothing that is not used"


def test_mean_pooling_is_for_tokens(tmp_path: Path) -> None:
    configuration = transformers.ViTConfig(image_size=16, patch_size=8, **SMALL)
    option = written(tmp_path, transformers.ViTForImageClassification(configuration))
    option.pooling = Pooling.mean
    with pytest.raises(ConfigError, match=r"^model\.pooling=mean is for tokens, got a network for image; use "):
        fresh(option, IMAGE)


def test_a_folder_of_sentence_transformers_is_told_of_mean_pooling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    option = written(tmp_path, transformers.BertModel(bert()))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    with caplog.at_level("INFO", logger="quantexp"):
        fresh(option)
        assert "consider model.pooling=mean" in caplog.text
        caplog.clear()
        option.pooling = Pooling.mean
        fresh(option)
        assert "consider" not in caplog.text


def test_a_configuration_alone_gives_random_weights(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    model = Transformers(path=str(tmp_path))
    models.check(model)
    network = fresh(model)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("pooling", list(Pooling))
def test_a_run_stores_the_configuration_and_loads_without_the_folder(tmp_path: Path, pooling: Pooling) -> None:
    folder = tmp_path / "folder"
    model = written(tokenizer(folder), transformers.BertModel(bert()))
    model.pooling = pooling
    experiment = Experiment(
        task=Sst2(length=LENGTH),
        model=model,
        quant=Dynamic(),
        data=DataSource.sample,
        batch_size=[1],
        benchmark=Paired(seconds=0.05, placements=2),
    )
    made = run(experiment)
    save(tmp_path / "stored", made.model, made.recipe)
    shutil.rmtree(folder)
    loaded = load(tmp_path / "stored")
    ids, mask = (torch.zeros(2, LENGTH, dtype=torch.int64), torch.ones(2, LENGTH, dtype=torch.int64))
    assert torch.equal(given(loaded, ids, mask), given(made.model, ids, mask))
    found = loaded.predict("a fine film")
    assert not isinstance(found, list)
    assert found.name in ("negative", "positive")


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Bert(hidden=16, feed_forward=32), TOKENS),
        (Bert(family=Family.distilbert, hidden=16, feed_forward=32), TOKENS),
        (Wav2Vec2Option(channels=8, hidden=32, feed_forward=32, layers=1), SOUND),
    ],
    ids=["bert", "distilbert", "wav2vec2"],
)
def test_a_network_from_sizes_gives_logits_for_each_class(model: Model, inputs: tuple[InputSpec, ...]) -> None:
    from quantexp.tasks.inputs import examples

    assert given(fresh(model, inputs, classes=4), *examples(inputs, 3)).shape == (3, 4)


def test_dynamic_quantizes_every_linear_layer_of_bert() -> None:
    experiment = Experiment(
        task=Sst2(vocabulary=WORDS, length=LENGTH),
        model=Bert(hidden=16, feed_forward=32, layers=1),
        quant=Dynamic(),
        data=DataSource.synthetic,
        evaluation_examples=8,
    )
    found = attempt(experiment)
    linear = {layer.name: layer.precision for layer in found.evidence.layers if layer.kind == "Linear"}
    assert len(linear) == 8, "query, key, value, output, two of the feed-forward part, the pooler and the head"
    assert set(linear.values()) == {"int8"}


# --- what is refused -------------------------------------------------------------------------------


def test_weights_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"must have its weights in safetensors, it has only pytorch_model\.bin"):
        models.check(Transformers(path=str(tmp_path)))


def test_code_in_a_folder_is_never_executed(tmp_path: Path) -> None:
    described = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}, "architectures": ["Own"]}
    (tmp_path / "config.json").write_text(json.dumps(described))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    with pytest.raises(
        ConfigError, match=r"must be a network of transformers for tokens .*but it cannot be built and run"
    ):
        fresh(Transformers(path=str(tmp_path)))
    assert not (tmp_path / "executed").exists()


def test_a_network_that_takes_spectrograms_is_refused(tmp_path: Path) -> None:
    saved = transformers.ASTForAudioClassification(transformers.ASTConfig(num_labels=CLASSES, **SMALL))
    with pytest.raises(
        ConfigError, match=r"must be a network of transformers for waveform .*but it cannot be built and"
    ):
        fresh(written(tmp_path, saved), SOUND)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"hidden_size": 8}'], ids=["none", "cut", "list", "no type"])
def test_a_folder_without_a_configuration_is_an_error_that_names_it(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"model\.path=.* must be a folder of Hugging Face with config\.json"):
        models.check(Transformers(path=str(tmp_path)))


def test_more_tokens_than_the_network_embeds_are_refused_with_the_repair(tmp_path: Path) -> None:
    model = written(tmp_path, transformers.BertForSequenceClassification(bert(vocab_size=10)))
    with pytest.raises(ConfigError, match=r"embeds 10 tokens, the task has 30; use the tokenizer of the network"):
        fresh(model)


def test_longer_sentences_than_the_network_takes_are_refused_with_the_repair(tmp_path: Path) -> None:
    model = written(tmp_path, transformers.BertForSequenceClassification(bert(max_position_embeddings=4)))
    with pytest.raises(ConfigError, match=r"takes at most 4 tokens, got task\.length=8; lower it"):
        fresh(model)


def test_a_sound_too_short_for_the_convolutions_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes at least 400 samples of sound, got 300"):
        fresh(Wav2Vec2Option(), (InputSpec("sound", (300,)),))


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.hidden must be a multiple of model\.heads, got 10 and 3"):
        Bert(hidden=10, heads=3)


def test_other_weights_in_the_same_folder_are_another_network(tmp_path: Path) -> None:
    model = written(tmp_path, transformers.BertModel(bert()))
    before = models.source(model)
    written(tmp_path, transformers.BertModel(bert()))
    assert models.source(model) != before
    moved = shutil.copytree(tmp_path, tmp_path.parent / "moved")
    assert models.source(Transformers(path=str(moved))) == models.source(model)


def test_the_float_network_is_stored_and_loaded(tmp_path: Path) -> None:
    experiment = Experiment(
        task=Sst2(vocabulary=WORDS, length=LENGTH),
        model=Bert(hidden=16, feed_forward=32, layers=1),
        quant=NoQuant(),
        data=DataSource.synthetic,
        evaluation_examples=4,
        batch_size=[1],
        benchmark=Paired(seconds=0.05, placements=2),
    )
    made = run(experiment)
    save(tmp_path, made.model, made.recipe)
    ids, mask = sentences()
    assert torch.equal(given(load(tmp_path), ids, mask), given(made.model, ids, mask))
