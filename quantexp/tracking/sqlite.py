"""A SQLite store as files: the database, and the files of its runs in a folder beside it.

It is read through a copy in a temporary folder, so that reading creates no file, takes no lock for long, and migrates
nothing: a database in a read-only folder, or of an older MLflow, is read like any other. A large one of
this MLflow is read where it is, by a connection that cannot change it. A database is checked before it is written, as
MLflow would try for minutes to open a locked one.

MLflow records the folder of a run's files as an absolute path. After the store was moved that path is wrong, and after
it was copied it is that of the other store. So files are looked for beside the database first, and always written
there.
"""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from quantexp.system.errors import TrackingError

log = logging.getLogger(__name__)

ARTIFACTS = "mlartifacts"  # the folder beside the database
COPIED_BYTES = 2**24  # of the largest database that is copied to be read
BUSY_SECONDS = 20.0  # wait for a locked database; MLflow waits as long
ELSEWHERE = (
    "record elsewhere: start in another folder, or use tracking=server tracking.uri=sqlite:////path/to/mlflow.db"
)
MAGIC = b"SQLite format 3\0"
WRITE_AHEAD = b"\2"  # at byte 18 of a database whose latest changes may be in another file
SIDE_FILES = ("-wal", "-journal")  # changes that are not yet in the database, or must be undone


# -- reading ---------------------------------------------------------------------------------------------


@contextmanager
def snapshot(database: Path) -> Iterator[Path]:
    """Yield a copy of the database as it is now. Raises TrackingError."""
    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        copy = Path(scratch) / "mlflow.db"
        with _explained(database):
            if not database.is_file():
                raise TrackingError(
                    f"there is no store {database}; run this in the folder of the store, or give its address "
                    "(tracking_uri=, --tracking-uri)"
                )
            _copy(database, copy)
            with closing(sqlite3.connect(copy)) as connection:
                (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise damaged(database, verdict)
        yield copy


def in_place(database: Path) -> str | None:
    """Return the address at which a large database is read where it is, and cannot be changed; None to read a copy.

    A copy is read of a small one, of one whose latest changes are in another file, of one whose last writer died, and
    of one whose path an address cannot hold: SQLAlchemy decodes it once more than SQLite expects.

    Raises:
        TrackingError: If another process keeps it locked.
    """
    if re.search("[%#?]", str(database)):
        return None
    with _explained(database):
        if not database.is_file() or database.stat().st_size <= COPIED_BYTES:
            return None
        with database.open("rb") as file:
            header = file.read(100)
        if not header.startswith(MAGIC) or header[18:19] == WRITE_AHEAD:
            return None
        address = f"{database.as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if _code(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise
            return None
    return f"sqlite:///{address}&uri=true"


def check_tables(database: Path, copy: Path) -> None:
    """Check that a copy of a database has the tables of MLflow, which would create them. Raises TrackingError."""
    address = f"{copy.as_uri()}?mode=ro"
    with _explained(database), closing(sqlite3.connect(address, uri=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            raise TrackingError(
                f"{database} is a SQLite file, but no store of MLflow: it has no table of experiments; name another one"
            )


def _copy(database: Path, copy: Path) -> None:
    with database.open("rb") as file:
        header = file.read(100)
    if not header.startswith(MAGIC):
        raise damaged(database, "it is empty" if not header else "it is not a database")
    if header[18:19] == WRITE_AHEAD:  # SQLite would create files beside it, even to read it
        _copy_files(database, copy)
        return
    try:
        _back_up(database, copy)
    except sqlite3.OperationalError as error:
        if _code(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
        _copy_files(database, copy)  # a process died while writing: its changes are undone in the copy


def _back_up(database: Path, copy: Path) -> None:
    source = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    with closing(source), closing(sqlite3.connect(copy)) as target:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master")  # waits for a lock no longer than the timeout
        source.backup(target)


def _copy_files(database: Path, copy: Path) -> None:
    for suffix in ("", *SIDE_FILES):
        source = database.with_name(f"{database.name}{suffix}")
        if source.is_file():
            shutil.copyfile(source, copy.with_name(f"{copy.name}{suffix}"))


# -- writing ---------------------------------------------------------------------------------------------


def check_writable(database: Path) -> None:
    """Check that runs can be recorded in a database, or in a new one at its path. Raises TrackingError."""
    folder = database.parent
    if "?" in str(database):
        raise TrackingError(
            f"the path of a SQLite store must not contain a question mark, {database} does; {ELSEWHERE}"
        )
    with _explained(database):
        if not folder.is_dir():
            raise TrackingError(
                f"runs are recorded in {database}, but there is no folder {folder}; create it, or {ELSEWHERE}"
            )
        if database.exists():
            database.open("rb").close()
            _check_file(database)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise folder_not_writable(database, folder, error) from error


def _check_file(database: Path) -> None:
    try:
        database.open("r+b").close()  # SQLite would fail only when something is written
    except OSError as error:
        raise _read_only(database, error.strerror or str(error)) from error


def check_free(database: Path) -> None:
    """Check that the file is a database, and that no other process keeps it locked. Raises TrackingError."""
    if not database.exists():
        return
    address = f"{database.as_uri()}?mode=rw"
    with _explained(database), closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def is_new(database: Path) -> bool:
    """Return whether there is no database yet, or an empty file as a killed process leaves it."""
    return not database.exists() or (database.is_file() and database.stat().st_size == 0)


def remove_database(database: Path) -> None:
    """Remove a database with the files that SQLite creates beside it, those that there are."""
    for suffix in ("", *SIDE_FILES, "-shm"):
        database.with_name(f"{database.name}{suffix}").unlink(missing_ok=True)


def folder_not_writable(database: Path, folder: Path, error: OSError) -> TrackingError:
    """Return the error for a store in a folder that is not writable."""
    return TrackingError(
        f"runs are recorded in {database}, but its folder {folder} is not writable ({error.strerror or error}); make "
        f"it writable with chmod u+w {folder}, or {ELSEWHERE}. What is recorded there can still be read"
    )


def own_artifacts(database: Path, experiment: str) -> None:
    """Make MLflow write the files of new runs beside the database, also after its folder was moved or copied.

    If the files of older runs are beside it, their recorded place is corrected, so that MLflow's UI finds them too.
    """
    here = database.parent / ARTIFACTS
    with closing(sqlite3.connect(database, timeout=BUSY_SECONDS)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        found = connection.execute(
            "SELECT experiment_id, artifact_location FROM experiments WHERE name = ?", (experiment,)
        ).fetchone()
        if found is None or not _is_of_another_place(found[1], here):
            return
        number, before = found
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (here.as_uri(), number)
        )
        for (run_id,) in connection.execute(
            "SELECT run_uuid FROM runs WHERE experiment_id = ? AND status != 'RUNNING' "
            "AND artifact_uri = ? || '/' || run_uuid || '/artifacts'",
            (number, before),
        ).fetchall():
            if (folder := run_folder(database, run_id)) and folder.is_dir():
                connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (folder.as_uri(), run_id))
    log.info("store     it was moved from %s; files of new runs are written to %s", before, here)


def own_run(database: Path, run_id: str) -> Path | None:
    """Return the folder beside the database for the files of a run; None if they are elsewhere.

    The recorded place is corrected if the store was moved.
    """
    folder = run_folder(database, run_id)
    with closing(sqlite3.connect(database, timeout=BUSY_SECONDS)) as connection, connection:
        found = connection.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
        recorded = local_path(found[0]) if found else None
        if folder is None or recorded is None or recorded.parts[-3:] != folder.parts[-3:]:
            return None
        if _is_of_another_place(str(recorded.parents[1]), folder.parents[1]):
            connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (folder.as_uri(), run_id))
    return folder


def run_folder(database: Path, run_id: str) -> Path | None:
    """Return the folder beside the database for the files of a run; None if its id is not one of MLflow."""
    return database.parent / ARTIFACTS / run_id / "artifacts" if re.fullmatch(r"\w+", run_id) else None


def local_path(address: str) -> Path | None:
    """Return the path of a folder's address; None if it is not an absolute path on this machine."""
    parts = urlsplit(address)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        return None
    path = Path(url2pathname(parts.path) if parts.scheme else address)
    return path if path.is_absolute() else None


def _is_of_another_place(location: str, here: Path) -> bool:
    """Return whether a folder is that of a store at another place; a folder of another name is the user's choice."""
    path = local_path(location)
    return path is not None and path.name == ARTIFACTS and path.resolve() != here.resolve()


# -- errors ----------------------------------------------------------------------------------------------


@contextmanager
def _explained(database: Path) -> Iterator[None]:
    """Turn an error of opening a database into one that says what is wrong and how to repair it."""
    try:
        yield
    except PermissionError as error:
        raise TrackingError(
            f"{database} is not readable for this user ({error.strerror}); ask its owner to run chmod a+r on it and "
            f"chmod a+rx on its folder, or {ELSEWHERE}"
        ) from error
    except OSError as error:
        raise TrackingError(
            f"{database} cannot be read as a SQLite store ({error.strerror or error}); repair it, or {ELSEWHERE}"
        ) from error
    except sqlite3.Error as error:
        raise explained(database, error) from error


def explained(database: Path, error: sqlite3.Error) -> TrackingError:
    """Return what is wrong with a database, and how to repair it."""
    match _code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return TrackingError(
                f"{database} is locked by another process for more than {BUSY_SECONDS:g} seconds; wait until that "
                f"process ends, or end it (fuser {database} shows it)"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
            return _read_only(database, str(error))
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(database, str(error))
    return TrackingError(f"{database} cannot be used as a SQLite store ({error}); repair it, or {ELSEWHERE}")


def _read_only(database: Path, reason: str) -> TrackingError:
    return TrackingError(
        f"{database} is read-only, so that runs cannot be recorded there ({reason}); make it writable with chmod u+w "
        f"{database}, or {ELSEWHERE}. What is recorded there can still be read"
    )


def half_made(database: Path, reason: str) -> TrackingError:
    """Return the error for a database whose creation was cut short, as MLflow leaves it."""
    return TrackingError(
        f"{database} was not created to its end ({reason}), as MLflow was stopped meanwhile; if nothing "
        f"was recorded in it, remove it; or {ELSEWHERE}"
    )


def damaged(database: Path, reason: str) -> TrackingError:
    """Return the error for a file that is not a database, or is damaged."""
    return TrackingError(
        f"{database} is damaged, or is not a SQLite store ({reason}); restore a backup, or move it away. To "
        f"save what is left of it: sqlite3 {database} .recover | sqlite3 recovered.db"
    )


def _code(error: sqlite3.Error) -> int:
    """Return the primary code of an error of SQLite."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
