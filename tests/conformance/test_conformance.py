"""Networks of many kinds, through every method and flow: each works, or is refused with a reason."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from quantexp.system.errors import CheckError
from tests.conformance import pool, table
from tests.conformance.advice import advised, false_advice
from tests.conformance.cells import FAILURES, Cell, Column, Outcome, Result, cells, columns, outcome, part
from tests.conformance.named import NAMED, is_named, kinds
from tests.conformance.networks import NETWORKS
from tests.conformance.networks.built import CLASSES, built, example
from tests.conformance.table import Row

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch about the networks of users, which these stand for

RANDOM = {"DropoutLeftOn", "Noise"}
DEPENDS_ON_BATCH = {"NormOfBatch", "LstmPacked", "ControlFlow", "ControlFlowOnShape"}


def logits(network: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.no_grad():
        output = network(*(tensor.clone() for tensor in batch))
    output = getattr(output, "logits", output)
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


# The networks


def test_there_are_at_least_sixty_networks_each_described_by_a_sentence_of_its_own() -> None:
    sentences = {table.described(name) for name in NETWORKS}
    assert len(NETWORKS) >= 60
    assert len(sentences) == len(NETWORKS)
    assert all(sentence[:1].isupper() or sentence.startswith(("nn.", "torch.", "F.")) for sentence in sentences)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_logits_and_is_small(name: str) -> None:
    network = built(name)
    assert logits(network, example(name, 4)).shape == (4, CLASSES)
    assert sum(parameter.numel() for parameter in network.parameters()) < 60_000


@pytest.mark.parametrize("name", NETWORKS)
def test_only_networks_that_say_so_are_random_or_depend_on_the_batch(name: str) -> None:
    network, batch = built(name), example(name, 4)
    first, second = logits(network, batch), logits(network, batch)
    assert torch.equal(first, second) == (name not in RANDOM)
    if name not in RANDOM | DEPENDS_ON_BATCH:
        alone = torch.cat([logits(network, tuple(tensor[row : row + 1] for tensor in batch)) for row in range(4)])
        assert torch.allclose(alone, first, atol=1e-4)


# The table of the docs


def test_the_table_of_the_docs_has_the_networks_and_methods_of_the_code() -> None:
    assert [row.cell for row in table.read()] == cells()


def test_the_page_of_the_docs_is_that_of_the_table() -> None:
    text = table.PAGE.read_text(encoding="utf-8")
    minutes = re.search(r"took (\d+) minutes", text)
    assert minutes and int(minutes[1]) < 45
    machine = re.compile(r"^Machine: .*$", re.MULTILINE)
    assert machine.sub("", table.page(table.read(), 0.0)) == machine.sub("", text)


def test_no_cell_of_the_docs_failed_and_all_others_have_a_reason() -> None:
    rows = table.read()
    assert [str(row.cell) for row in rows if row.outcome in FAILURES] == []
    assert all((row.outcome is Outcome.works) == (row.reason == "") for row in rows)


def test_at_least_sixty_percent_of_the_cells_of_named_layers_work() -> None:
    rows = table.read()
    for row in rows:
        assert row.named == is_named(row.cell.column, built(row.cell.network))
    right, of = table.works_among_named(rows)
    assert of > len(NETWORKS) and right >= 0.6 * of


def test_what_is_named_are_methods_that_there_are_and_kinds_that_networks_have() -> None:
    assert set(NAMED) <= {(column.method, column.flow) for column in columns()}
    assert set().union(*NAMED.values()) <= set().union(*(kinds(built(name)) for name in NETWORKS))


def test_what_messages_advise_works_on_the_network_of_the_message() -> None:
    assert list(false_advice(table.read())) == []


def test_networks_that_are_random_never_work() -> None:
    assert not [str(row.cell) for row in table.read() if row.cell.network in RANDOM and row.outcome is Outcome.works]


def test_advice_is_read_from_messages() -> None:
    def texts(message: str) -> list[str]:
        return [advice.text for advice in advised(message, Column("static", "fx", "int8"))]

    assert texts("it failed; use quant.flow=eager, or quant=dynamic in quant.flow=eager, which traces nothing") == [
        "quant=dynamic in quant.flow=eager",
        "quant.flow=eager",
    ]
    assert texts("it failed; use quant.flow=fx or eager") == ["quant.flow=fx", "quant.flow=eager"]
    assert texts("it failed in quant.flow=fx; use quant=amp precision=bf16") == ["quant=amp precision=bf16"]
    assert texts("it failed in quant.flow=fx; use quant.engine=fbgemm") == []
    found = Row(Cell("Relu", Column("static", "fx", "int8")), Outcome.refused, None, None, True, "use quant.flow=eager")
    other = replace(found, cell=Cell("Relu", Column("static", "eager", "int8")), reason="no")
    assert list(false_advice([found, other])) == ["Relu static fx: quant.flow=eager is refused"]
    assert list(false_advice([found, replace(other, outcome=Outcome.works)])) == []


# How cells are run


def test_each_tenth_of_the_cells_has_every_method_and_together_they_are_all() -> None:
    tenths = [part(number, 10) for number in range(1, 11)]
    assert sorted(str(cell) for tenth in tenths for cell in tenth) == sorted(str(cell) for cell in cells())
    assert all({cell.column for cell in tenth} == set(columns()) for tenth in tenths)


def test_outcomes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("Relu", Column("dynamic", "eager", "int8"))
    found = outcome(cell, str(tmp_path))
    assert found.outcome is Outcome.works and found.share == pytest.approx(1.0) and found.reason == ""
    refused = outcome(Cell("NoParameters", cell.column), str(tmp_path))
    assert refused.outcome is Outcome.refused and "quant" in refused.reason

    def fails(error: Exception) -> Result:
        def attempt(experiment: object, *, advise: bool) -> None:
            raise error

        monkeypatch.setattr("tests.conformance.cells.attempt", attempt)
        return outcome(cell, str(tmp_path))

    wrong = fails(CheckError("kernels", "noise"))
    assert (wrong.outcome, wrong.check, wrong.short) == (Outcome.wrong, "kernels", "noise")
    broken = fails(IndexError("list index out of range"))
    assert (broken.outcome, broken.short) == (Outcome.traceback, "IndexError: list index out of range")


@pytest.mark.exhaustive
def test_a_crash_and_a_timeout_are_outcomes_and_the_next_cell_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("Relu", Column("dynamic", "eager", "int8"))
    with pool.Worker(str(tmp_path)) as worker:
        assert worker.run(cell).outcome is Outcome.works
        worker._process.kill()
        crashed = worker.run(cell)
        assert crashed.outcome is Outcome.crash and "-9" in crashed.reason
        monkeypatch.setattr(pool, "LIMIT_SECONDS", 0.0)
        assert worker.run(cell).outcome is Outcome.timeout
        monkeypatch.setattr(pool, "LIMIT_SECONDS", 120.0)
        assert worker.run(cell).outcome is Outcome.works


# The cells themselves


@pytest.mark.parametrize(
    "parts", [pytest.param(100, marks=pytest.mark.exhaustive), pytest.param(10, marks=pytest.mark.exhaustive)]
)
def test_a_part_of_the_cells_and_those_that_ever_failed_end_without_a_failure(parts: int) -> None:
    ever = set(table.failed())
    assert ever <= {str(cell) for cell in cells()}
    chosen_part, often = set(part(1, parts)), set(sorted(ever)[:: 1 if parts == 10 else 5])
    chosen = [cell for cell in cells() if cell in chosen_part or str(cell) in often]
    results = pool.run(chosen, 2, advise=False)  # what messages advise is checked in the table of all cells
    assert [f"{one.cell}: {one.outcome} {one.short}" for one in results if one.outcome in FAILURES] == []
