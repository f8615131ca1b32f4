"""A new store has the tables that MLflow's own migrations make, with any version of MLflow."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from quantexp.config import Local
from quantexp.tracking import schema
from quantexp.tracking.store import open_store


def statements(script: str) -> list[list[str]]:
    """The statements without the order of their lines: MLflow's migrations give constraints in any order."""
    return sorted(sorted(line.strip().rstrip(",") for line in one.splitlines()) for one in script.split(";\n"))


def content(database: Path) -> list[list[str]]:
    with closing(sqlite3.connect(database)) as connection:
        return statements("\n".join(connection.iterdump()))


@pytest.mark.slow
def test_the_schema_in_the_package_is_what_the_migrations_of_mlflow_leave() -> None:
    shipped = schema.FILE.read_text(encoding="utf-8")
    if not shipped.startswith(f"-- MLflow {mlflow.__version__}\n"):
        pytest.skip("it is of another version of MLflow, and not used with this one")
    assert statements(schema.schema()) == statements(shipped)


@pytest.mark.slow
def test_another_version_of_mlflow_makes_the_tables_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "schema.sql"
    other.write_text("-- MLflow 0.1\nCREATE TABLE of_another_version (name TEXT);\n")
    schema.create_tables(tmp_path / "shipped.db")
    monkeypatch.setattr(schema, "FILE", other)
    schema.create_tables(tmp_path / "mlflow.db")
    assert content(tmp_path / "mlflow.db") == content(tmp_path / "shipped.db")
    store = open_store(Local())
    assert store.client.create_run(store.experiment_id).info.status == "RUNNING"
