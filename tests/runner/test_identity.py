"""Two runs are the same if everything that their results depend on is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quantexp.config import Experiment, Lab, Mlp, Mnist, NoQuant, Server, Static, SweepSettings, Train
from quantexp.results.identity import Identity
from quantexp.runner.identity import configuration, configuration_digest, identity_of

DATA = "d" * 64


@pytest.fixture(scope="module")
def identity() -> Identity:
    return identity_of(Experiment(), DATA)


def test_the_identity_of_the_same_experiment_is_the_same(identity: Identity) -> None:
    assert identity_of(Experiment(), DATA).digest == identity.digest


@pytest.mark.parametrize(
    "other",
    [
        Experiment(seed=1),
        Experiment(batch_size=8),
        Experiment(validation=0.1),
        Experiment(quant=NoQuant()),
        Experiment(quant=Static(calibration_examples=64)),
        Experiment(task=Mnist(crop=28)),
        Experiment(model=Mlp(hidden=[8])),
        Experiment(train=Train(epochs=3)),
        Experiment(train=Train(threads=1)),
        Experiment(benchmark=Lab()),
    ],
    ids=lambda one: str(configuration_digest(one))[:8],
)
def test_whatever_shapes_a_result_makes_another_identity(identity: Identity, other: Experiment) -> None:
    assert identity_of(other, DATA).digest != identity.digest
    assert configuration_digest(other) != configuration_digest(Experiment())


@pytest.mark.parametrize(
    "other",
    [
        Experiment(data_dir="/data"),
        Experiment(cache_dir="/cache"),
        Experiment(tracking=Server(uri="http://host:5000")),
        Experiment(sweep=SweepSettings(name="night", resume=False)),
        Experiment(precision="int8"),  # what null stands for
        Experiment(model=Mlp(hidden=[1024, 1024])),  # as is this
    ],
    ids=["data_dir", "cache_dir", "tracking", "sweep", "precision", "hidden"],
)
def test_where_things_lie_and_how_they_were_typed_does_not(identity: Identity, other: Experiment) -> None:
    assert identity_of(other, DATA).digest == identity.digest


def test_other_data_versions_or_machines_make_another_identity(identity: Identity) -> None:
    digests = {
        identity.digest,
        identity_of(Experiment(), "e" * 64).digest,
        replace(identity, versions={**identity.versions, "torch": "2.15.1"}).digest,
        replace(identity, host="elsewhere").digest,
        replace(identity, cpu="another").digest,
        replace(identity, threads={**identity.threads, "train": 64}).digest,
    }
    assert len(digests) == 6


def test_weights_of_ones_own_count_by_their_content_not_by_their_place(tmp_path: Path) -> None:
    first, copy, other = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt"))
    for path, content in ((first, b"weights"), (copy, b"weights"), (other, b"others")):
        path.write_bytes(content)
    named = [configuration(Experiment(train=Train(checkpoint=str(path)))) for path in (first, copy, other)]
    assert named[0] == named[1] != named[2]


def test_an_identity_is_read_back_as_it_was_written(identity: Identity) -> None:
    assert Identity.from_json(identity.to_json()) == identity
    assert Identity.from_json(identity.to_json()).digest == identity.digest
    with pytest.raises(ValueError, match="configuration"):
        Identity.from_json("{}")
