"""The same experiments on several machines, read from their stores: the table and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantexp.system.errors import ConfigError, QuantexpError
from quantexp.system.terminal import show


def compare(stores: Sequence[str], experiment: str, folder: Path, sweep: str | None = None) -> None:
    """Read stores, print the table of their experiments on each machine, and write the report.

    Args:
        stores: Each the tracking URI of a store, its SQLite file, or the folder of its `mlflow.db`.
        experiment: The MLflow experiment of the runs.
        folder: The folder of the report.
        sweep: The name of a sweep; None compares all runs.

    Raises:
        QuantexpError: TrackingError if a store cannot be read or has no runs, ConfigError for wrong arguments or if
            all runs were made on one machine.
    """
    from quantexp.analysis.machines import side_by_side
    from quantexp.reports.machines_page import write_machines
    from quantexp.reports.machines_table import machines_table
    from quantexp.results.text import listed
    from quantexp.runner.recorded import read_stores
    from quantexp.tracking.address import store_uri

    compared = side_by_side(read_stores([store_uri(store) for store in stores], experiment, sweep))
    if len(compared.machines) < 2:
        (machine,) = compared.machines
        raise ConfigError(
            f"runs of two machines or more are compared, all runs in {listed(compared.stores)} were made on "
            f"{machine.name} ({machine.summary}); run the same command on another machine, and name its store too"
        )
    show(machines_table(compared).rich())
    try:
        page = write_machines(compared, folder)
    except QuantexpError as error:
        raise QuantexpError(f"{error} with --to FOLDER") from error
    show(f"\nreport: {page}")
