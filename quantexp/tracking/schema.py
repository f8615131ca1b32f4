"""The tables of a new SQLite store, as MLflow makes them.

MLflow makes them by all migrations since its first version, which takes seconds. `schema.sql` has what they leave. It
is used with the version of MLflow that it was made by; any other version makes the tables itself.

python -m quantexp.tracking.schema > quantexp/tracking/schema.sql
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

FILE = Path(__file__).with_name("schema.sql")


def create_tables(database: Path) -> None:
    """Create the tables of MLflow in a new file. Raises any error of MLflow or SQLite."""
    import mlflow

    script = FILE.read_text(encoding="utf-8")
    if not script.startswith(_made_by(mlflow.__version__)):
        migrate(database)
        return
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(script)


def migrate(database: Path) -> None:
    """Let MLflow create its tables in a new file, by all of its migrations."""
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{database}")
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()


def schema() -> str:
    """Return the SQL that creates the tables of this version of MLflow."""
    import mlflow

    with tempfile.TemporaryDirectory(prefix="quantexp-") as folder:
        migrate(database := Path(folder) / "mlflow.db")
        with closing(sqlite3.connect(database)) as connection:
            return _made_by(mlflow.__version__) + "\n".join(connection.iterdump()) + "\n"


def _made_by(version: str) -> str:
    return f"-- MLflow {version}\n"


if __name__ == "__main__":
    print(schema(), end="")
