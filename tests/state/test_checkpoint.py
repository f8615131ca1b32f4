"""Weights to start from: a file of the user's own, or the network that a run stored; never unpickled."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from quantexp.models.mlp import MLP
from quantexp.state.checkpoint import fill_from_file, fill_from_stored, float_weights
from quantexp.system.errors import ModelError, TrainingError


@pytest.fixture
def network() -> MLP:
    return MLP(4, [3], 2)


def test_a_checkpoint_that_is_missing_is_an_error_that_names_it(network: MLP, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train\.checkpoint must be .*gone\.pt does not exist"):
        fill_from_file(network, tmp_path / "gone.pt")


def test_a_checkpoint_that_is_a_folder_is_an_error(network: MLP, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not exist"):
        fill_from_file(network, tmp_path)


def test_a_checkpoint_of_another_kind_is_an_error_that_names_the_kinds(network: MLP, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    path.write_bytes(b"weights")
    with pytest.raises(TrainingError, match=r"ends in \.safetensors, \.pt, \.pth, \.ckpt or \.bin, got own\.onnx"):
        fill_from_file(network, path)


def test_a_checkpoint_of_another_model_is_an_error_that_names_layer_expected_and_found(
    network: MLP, tmp_path: Path
) -> None:
    path = tmp_path / "own.pt"
    torch.save({**network.state_dict(), "layers.0.weight": torch.zeros(3, 5), "extra": torch.zeros(2)}, path)
    with pytest.raises(TrainingError) as failure:
        fill_from_file(network, path)
    assert "layers.0.weight: expected (3, 4), found (3, 5)" in str(failure.value)
    assert "only in the file: extra (2,)" in str(failure.value)
    assert "the network has 4 tensors, the file 5" in str(failure.value)
    assert "layers.2" not in str(failure.value), "layers that fit are not named"


def test_a_checkpoint_that_lacks_a_layer_is_an_error_that_names_it(network: MLP, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    state = network.state_dict()
    del state["layers.2.bias"]
    save_file(state, path)
    with pytest.raises(TrainingError, match=r"smaller network, .* only in the network: layers\.2\.bias \(2,\)"):
        fill_from_file(network, path)


class Payload:
    """What code in a pickle does: unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


def test_a_checkpoint_with_code_is_refused_and_the_code_does_not_run(network: MLP, tmp_path: Path) -> None:
    path, marker = tmp_path / "own.pt", tmp_path / "marker"
    torch.save({**network.state_dict(), "payload": Payload(marker)}, path)
    with pytest.raises(TrainingError, match=r"cannot be read as weights \(it holds more than weights"):
        fill_from_file(network, path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file was harmless after all, so the refusal proves nothing"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["own.safetensors", "own.pt"])
def test_a_checkpoint_that_is_not_finite_is_an_error_that_names_the_layer(
    network: MLP, tmp_path: Path, name: str, value: float
) -> None:
    path = tmp_path / name
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state["layers.2.weight"][1, 2] = value
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    with pytest.raises(TrainingError, match=r"finite floating-point numbers, layers\.2\.weight is not"):
        fill_from_file(network, path)


@pytest.mark.parametrize(
    "content",
    [
        [1.0],
        torch.zeros(2),
        {"epoch": 3, "losses": [1.0]},
        {},
        {"state_dict": {}},
        {"a": {"b": {"c": {"d": torch.zeros(1)}}}},
    ],
    ids=["list", "tensor", "no tensors", "empty", "empty entry", "too deep"],
)
def test_a_checkpoint_that_is_no_state_dict_is_an_error(network: MLP, tmp_path: Path, content: object) -> None:
    path = tmp_path / "own.pt"
    torch.save(content, path)
    with pytest.raises(TrainingError, match="must hold a state dict"):
        fill_from_file(network, path)


def quantized(weight: Tensor) -> Tensor:
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


@pytest.mark.parametrize("kind", [quantized, Tensor.to_sparse], ids=["quantized", "sparse"])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_a_checkpoint_of_weights_that_are_no_plain_tensors_is_an_error(
    network: MLP, tmp_path: Path, kind: Callable[[Tensor], Tensor]
) -> None:
    path = tmp_path / "own.pt"
    torch.save({**network.state_dict(), "layers.0.weight": kind(network.state_dict()["layers.0.weight"])}, path)
    with pytest.raises(TrainingError, match=r"layers\.0\.weight"):
        fill_from_file(network, path)


@pytest.mark.parametrize(
    ("count", "fits"), [(torch.tensor(7), True), (torch.tensor(7.0), True), (torch.tensor(1, dtype=torch.int8), False)]
)
def test_a_count_in_a_checkpoint_is_a_count_in_the_network(tmp_path: Path, count: Tensor, fits: bool) -> None:
    normed = nn.Sequential(nn.BatchNorm1d(4))  # counts its batches
    save_file({**normed.state_dict(), "0.num_batches_tracked": count}, tmp_path / "own.safetensors")
    if fits:
        fill_from_file(normed, tmp_path / "own.safetensors")
        assert int(normed.state_dict()["0.num_batches_tracked"]) == 7
    else:
        with pytest.raises(TrainingError, match="num_batches_tracked is not"):
            fill_from_file(normed, tmp_path / "own.safetensors")


@pytest.mark.parametrize("length", [0, 1, 5, 100, 1000])
@pytest.mark.parametrize("name", ["own.safetensors", "own.pt"])
def test_a_checkpoint_that_is_cut_off_is_an_error_that_names_it(
    network: MLP, tmp_path: Path, name: str, length: int
) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file({**network.state_dict(), "padding": torch.zeros(300)}, path)
    else:
        torch.save(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(TrainingError, match=name.replace(".", r"\.")):
        fill_from_file(network, path)


@pytest.mark.parametrize(
    "content",
    [b"\x80\x02.", b"\x80\x02j\x01\x00\x00\x00.", b"\x80\x02r"],
    ids=["empty stack", "no such memo", "cut in an argument"],
)
def test_a_checkpoint_that_is_a_damaged_pickle_is_an_error(network: MLP, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.pt"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"own\.pt"):
        fill_from_file(network, path)


# Names that others give


def saved(folder: Path, content: object, name: str = "own.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def filled(network: nn.Module, path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Fill the network from the file, and return what was said about it."""
    caplog.set_level("INFO")
    caplog.clear()
    fill_from_file(network, path)
    return caplog.text


def same(network: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt", ".bin"])
def test_weights_that_fit_as_they_are_are_taken_without_a_word(
    network: MLP, tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    path = tmp_path / f"own{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    fresh = MLP(4, [3], 2)
    assert filled(fresh, path, caplog) == ""
    assert same(fresh, network)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "lit.backbone."]
)
def test_a_prefix_before_all_names_is_left_out_and_named(
    network: MLP, tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    path = tmp_path / "own.safetensors"
    save_file({prefix + name: value for name, value in network.state_dict().items()}, path)
    fresh = MLP(4, [3], 2)
    said = filled(fresh, path, caplog)
    assert same(fresh, network)
    for part in prefix.removesuffix(".").split("."):
        assert part in said


def test_what_torch_itself_saves_of_a_wrapped_network_is_taken(
    network: MLP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(network)  # module.* and n_averaged
    fresh = MLP(4, [3], 2)
    said = filled(fresh, saved(tmp_path, averaged.state_dict()), caplog)
    assert same(fresh, network)
    assert "1 of 5 tensors are not used, their names do not begin with `module.`" in said
    compiled = torch.compile(network)
    assert isinstance(compiled, nn.Module)
    fresh = MLP(4, [3], 2)
    assert "names without `_orig_mod.`" in filled(fresh, saved(tmp_path, compiled.state_dict()), caplog)
    assert same(fresh, network)


def test_a_wrapper_inside_a_network_is_left_out_too(
    network: MLP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {name.replace("layers.", "layers._orig_mod."): value for name, value in network.state_dict().items()}
    fresh = MLP(4, [3], 2)
    assert "_orig_mod" in filled(fresh, saved(tmp_path, state), caplog)
    assert same(fresh, network)


def test_a_network_inside_another_one_takes_the_names_of_its_own(
    network: MLP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outer = nn.ModuleDict({"backbone": MLP(4, [3], 2)})
    assert "names with `backbone.` in front" in filled(outer, saved(tmp_path, network.state_dict()), caplog)
    assert same(outer["backbone"], network)


def test_a_child_called_model_is_no_prefix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = nn.ModuleDict({"model": MLP(4, [3], 2), "head": nn.Linear(2, 2)})
    fresh = nn.ModuleDict({"model": MLP(4, [3], 2), "head": nn.Linear(2, 2)})
    assert filled(fresh, saved(tmp_path, own.state_dict()), caplog) == ""
    assert same(fresh, own)


def test_tensors_beside_a_prefix_of_no_known_wrapper_are_a_misfit_that_names_them(network: MLP, tmp_path: Path) -> None:
    state = {f"first.{name}": value for name, value in network.state_dict().items()}
    with pytest.raises(TrainingError, match=r"larger network .*only in the file: second\.weight \(2, 2\)"):
        fill_from_file(MLP(4, [3], 2), saved(tmp_path, {**state, "second.weight": torch.zeros(2, 2)}))


@pytest.mark.parametrize(
    "entry", ["state_dict", "model_state_dict", "model", "net", "checkpoint.model", "weights_of_mine"]
)
def test_a_state_dict_inside_a_checkpoint_is_found_and_named(
    network: MLP, tmp_path: Path, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    content: object = network.state_dict()
    for name in reversed(entry.split(".")):
        content = {"epoch": 7, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, name: content}
    fresh = MLP(4, [3], 2)
    assert f"its entry {entry}" in filled(fresh, saved(tmp_path, content), caplog)
    assert same(fresh, network)


def test_of_a_network_and_its_average_the_network_is_taken(
    network: MLP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = {"state_dict_ema": MLP(4, [3], 2).state_dict(), "state_dict": network.state_dict(), "epoch": 1}
    fresh = MLP(4, [3], 2)
    assert "its entry state_dict" in filled(fresh, saved(tmp_path, content), caplog)
    assert same(fresh, network)


def test_several_state_dicts_without_a_known_name_are_an_error_that_lists_them(network: MLP, tmp_path: Path) -> None:
    content = {"generator": network.state_dict(), "critic": network.state_dict()}
    with pytest.raises(TrainingError, match=r"it holds 2 \(generator, critic\); save the one you mean"):
        fill_from_file(network, saved(tmp_path, content))


def test_a_checkpoint_of_lightning_is_read(network: MLP, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    content = {
        "epoch": 1,
        "pytorch-lightning_version": "2.5",
        "state_dict": {**state, "criterion.weight": torch.ones(2)},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "hyper_parameters": {"width": 3},
    }
    fresh = MLP(4, [3], 2)
    said = filled(fresh, saved(tmp_path, content, "last.ckpt"), caplog)
    assert same(fresh, network)
    assert "its entry state_dict; names without `model.`; 1 of 5 tensors are not used" in said


# What torch takes


def test_counters_that_old_files_lack_are_taken_as_torch_takes_them(tmp_path: Path) -> None:
    normed = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    normed(torch.randn(8, 4))
    old = {name: value for name, value in normed.state_dict().items() if "num_batches" not in name}
    for path in (saved(tmp_path, old), tmp_path / "own.safetensors"):
        if path.suffix == ".safetensors":
            save_file(old, path)
        fresh = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        fill_from_file(fresh, path)
        assert torch.equal(fresh.state_dict()["1.running_mean"], normed.state_dict()["1.running_mean"])
        assert int(fresh.state_dict()["1.num_batches_tracked"]) == 0


def parametrized() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 2))


def test_old_names_of_weight_norm_are_taken_as_torch_takes_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = parametrized()
    new = own.state_dict()
    names = {"0.parametrizations.weight.original0": "0.weight_g", "0.parametrizations.weight.original1": "0.weight_v"}
    old = {names.get(name, name): value for name, value in new.items()}
    assert {"0.weight_g", "0.weight_v"} < old.keys()
    for prefix in ("", "module."):
        fresh = parametrized()
        filled(fresh, saved(tmp_path, {prefix + name: value for name, value in old.items()}), caplog)
        assert same(fresh, own)


class Tied(nn.Module):
    """An embedding whose weights are those of the last layer, with or without tying."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.last = nn.Linear(4, 5)
        if tied:
            self.last.weight = self.embedding.weight


@pytest.mark.parametrize("absent", ["last.weight", "embedding.weight"])
def test_a_tied_tensor_that_the_file_holds_once_fills_all_its_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, absent: str
) -> None:
    own, fresh = Tied(), Tied()
    save_file({name: value for name, value in own.state_dict().items() if name != absent}, tmp_path / "a.safetensors")
    assert "1 tied tensor that the file holds once" in filled(fresh, tmp_path / "a.safetensors", caplog)
    assert same(fresh, own)
    assert fresh.last.weight is fresh.embedding.weight


def test_tied_weights_with_two_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"embedding\.weight and last\.weight are tied, .* different values"):
        fill_from_file(Tied(), saved(tmp_path, Tied(tied=False).state_dict()))


def test_what_a_module_keeps_beside_tensors_is_taken_or_stays_as_built(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Keeping(nn.Linear):
        kept = 1

        def get_extra_state(self) -> object:
            return {"kept": self.kept}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.kept = state["kept"]

    own, fresh = Keeping(2, 2), Keeping(2, 2)
    own.kept = 5
    filled(fresh, saved(tmp_path, own.state_dict()), caplog)
    assert fresh.kept == 5
    fresh = Keeping(2, 2)
    tensors = {name: value for name, value in own.state_dict().items() if isinstance(value, Tensor)}
    assert "1 modules keep the extra state that they were built with" in filled(fresh, saved(tmp_path, tensors), caplog)
    assert fresh.kept == 1


# Values


class Masked(nn.Module):
    """A network with a mask of -inf above the diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))


def test_infinities_are_taken_where_the_network_has_them_and_nowhere_else(tmp_path: Path) -> None:
    own, fresh = Masked(), Masked()
    fill_from_file(fresh, saved(tmp_path, own.state_dict()))
    assert same(fresh, own)
    state = own.state_dict()
    state["mask"] = state["mask"].flip(0)
    with pytest.raises(TrainingError, match="mask is not: it has infinities where the network has none"):
        fill_from_file(Masked(), saved(tmp_path, state))


def test_values_beyond_float32_are_refused_and_others_are_cast(network: MLP, tmp_path: Path) -> None:
    state = {name: value.double() for name, value in network.state_dict().items()}
    fresh = MLP(4, [3], 2)
    fill_from_file(fresh, saved(tmp_path, state))
    assert same(fresh, network)
    state["layers.0.bias"][1] = -1e39  # the largest float32 is 3.4e38
    with pytest.raises(
        TrainingError, match=r"layers\.0\.bias is not: its values go up to 1e\+39, beyond the range of torch\.float32"
    ):
        fill_from_file(fresh, saved(tmp_path, state))
    masked = Masked().state_dict()
    masked["mask"] = masked["mask"].double().clamp(min=-1e39)
    with pytest.raises(TrainingError, match=r"mask is not: its values go up to 1e\+39"):
        fill_from_file(Masked(), saved(tmp_path, masked))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_of_half_the_size_are_cast(network: MLP, tmp_path: Path, dtype: torch.dtype) -> None:
    fresh = MLP(4, [3], 2)
    fill_from_file(fresh, saved(tmp_path, {name: value.to(dtype) for name, value in network.state_dict().items()}))
    assert {value.dtype for value in fresh.state_dict().values()} == {torch.float32}
    assert torch.equal(fresh.state_dict()["layers.0.weight"], network.state_dict()["layers.0.weight"].to(dtype).float())


def test_a_count_that_is_no_integer_is_refused(tmp_path: Path) -> None:
    normed = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(TrainingError, match=r"num_batches_tracked is not: it is torch\.float32"):
        fill_from_file(normed, saved(tmp_path, {**normed.state_dict(), "0.num_batches_tracked": torch.tensor(7.5)}))


# The likely cause of a misfit


def misfit(network: nn.Module, other: nn.Module, folder: Path) -> str:
    with pytest.raises(TrainingError, match="does not fit the network") as failure:
        fill_from_file(network, saved(folder, other.state_dict()))
    return str(failure.value)


def test_another_number_of_classes_is_named(tmp_path: Path) -> None:
    said = misfit(MLP(4, [3], 2), MLP(4, [3], 7), tmp_path)
    assert "it is of a network with 7 classes, this one has 2" in said
    assert "layers.2.weight: expected (2, 3), found (7, 3), layers.2.bias: expected (2,), found (7,)" in said


def test_another_number_of_inputs_is_named(tmp_path: Path) -> None:
    assert "it is of a network that takes 9 inputs, this one takes 4" in misfit(
        MLP(4, [3], 2), MLP(9, [3], 2), tmp_path
    )


def test_another_vocabulary_is_no_number_of_classes(tmp_path: Path) -> None:
    one, two = (nn.Sequential(nn.Embedding(words, 4), nn.Linear(4, 2)) for words in (10, 30))
    assert "it is of a network with 30 outputs or tokens in 0, this one has 10" in misfit(one, two, tmp_path)


def test_another_width_is_named(tmp_path: Path) -> None:
    assert "the same layers in other sizes" in misfit(MLP(4, [3], 2), MLP(4, [5], 2), tmp_path)


def test_another_network_is_named_with_both_sets_of_names(tmp_path: Path) -> None:
    other = nn.ModuleDict({"rnn": nn.LSTM(4, 3), "norm": nn.LayerNorm(3)})
    said = misfit(MLP(4, [3], 2), other, tmp_path)
    assert "it is of another network, no name is in both (the network has 4 tensors, the file 6;" in said
    assert "only in the network: layers.0.weight (3, 4)" in said
    assert "only in the file: rnn.weight_ih_l0 (12, 4)" in said


def test_other_names_of_the_same_shapes_are_named(tmp_path: Path) -> None:
    other = nn.ModuleDict({"first": nn.Linear(4, 3), "second": nn.Linear(3, 2)})
    said = misfit(MLP(4, [3], 2), other, tmp_path)
    assert "tensors of the same shapes under other names" in said
    assert "rename the tensors in the file" in said


def test_more_or_fewer_layers_are_named(tmp_path: Path) -> None:
    assert "it is of a larger network" in misfit(MLP(4, [3], 3), MLP(4, [3, 3], 3), tmp_path)
    assert "it is of a smaller network" in misfit(MLP(4, [3, 3], 3), MLP(4, [3], 3), tmp_path)


def test_another_kind_of_layer_under_the_same_name_is_named(tmp_path: Path) -> None:
    one, two = nn.Sequential(nn.Conv2d(4, 3, 1)), nn.Sequential(nn.Linear(4, 3))
    assert "layers of other kinds under the same names" in misfit(one, two, tmp_path)


def test_a_quantized_network_is_named(network: MLP, tmp_path: Path) -> None:
    state = {**network.state_dict(), "layers.0.zero_point": torch.zeros(1)}
    with pytest.raises(TrainingError, match=r"it is of a quantized network .*give the weights of the float network"):
        fill_from_file(network, saved(tmp_path, state))


def test_a_message_does_not_grow_with_the_network(tmp_path: Path) -> None:
    lengths = [len(misfit(MLP(4, [3] * deep, 2), MLP(5, [6] * deep, 3), tmp_path)) for deep in (10, 100)]
    assert lengths[1] - lengths[0] <= 10, "only the counts have more digits"


# A network that a run stored


def stored(folder: Path, network: MLP, method: str, precision: str) -> Path:
    """Write what is read of a stored network: its recipe, as far as it matters, and its weights."""
    wrapper = "model." if method == "amp" else ""
    folder.mkdir()
    save_file({f"{wrapper}{name}": value for name, value in network.state_dict().items()}, folder / "state.safetensors")
    (folder / "recipe.json").write_text(json.dumps({"quant": {"name": method}, "precision": precision}))
    return folder


@pytest.mark.parametrize(("method", "precision"), [("none", "fp32"), ("amp", "bf16"), ("amp", "fp16")])
def test_float32_weights_are_given_under_the_names_of_the_network(
    network: MLP, tmp_path: Path, method: str, precision: str
) -> None:
    folder = stored(tmp_path / "model", network, method, precision)
    assert float_weights(folder).keys() == network.state_dict().keys()
    fresh = MLP(4, [3], 2)
    fill_from_stored(fresh, folder, "train.checkpoint=runs:/1")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize(("method", "precision"), [("none", "bf16"), ("static", "int8"), ("weight_only", "int4")])
def test_weights_that_are_not_float32_are_refused(network: MLP, tmp_path: Path, method: str, precision: str) -> None:
    folder = stored(tmp_path / "model", network, method, precision)
    told = rf"got those of a run with quant={method} and precision={precision}"
    with pytest.raises(ModelError, match=told):
        float_weights(folder)
    with pytest.raises(TrainingError, match=rf"train\.checkpoint=runs:/1: .*{told}"):
        fill_from_stored(network, folder, "train.checkpoint=runs:/1")


def test_a_stored_network_of_other_layers_is_an_error_that_names_them(network: MLP, tmp_path: Path) -> None:
    folder = stored(tmp_path / "model", network, "none", "fp32")
    with pytest.raises(
        TrainingError, match=r"train\.checkpoint=runs:/1 does not fit .*expected \(9, 4\), found \(3, 4\)"
    ):
        fill_from_stored(MLP(4, [9], 2), folder, "train.checkpoint=runs:/1")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"quant": "none", "precision": "fp32"}'])
def test_a_stored_network_with_a_damaged_recipe_is_an_error(network: MLP, tmp_path: Path, content: str) -> None:
    folder = stored(tmp_path / "model", network, "none", "fp32")
    (folder / "recipe.json").write_text(content)
    with pytest.raises(ModelError, match="the stored network is damaged"):
        float_weights(folder)


def test_a_stored_network_without_its_weights_is_an_error(network: MLP, tmp_path: Path) -> None:
    folder = stored(tmp_path / "model", network, "none", "fp32")
    (folder / "state.safetensors").unlink()
    with pytest.raises(ModelError, match=r"damaged .*state\.safetensors"):
        float_weights(folder)
