"""Which MLflow store: one rule for runs, sweeps, `fedsweep.pareto` and the pages.

`tracker.uri` or `--tracking-uri`; without it MLFLOW_TRACKING_URI; without both the SQLite file that all share which is
started in a folder.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fedsweep import secrets
from fedsweep.errors import UserError

VARIABLE = "MLFLOW_TRACKING_URI"
MLFLOWS = "experiments"  # a table that every database of MLflow's has
_DEFAULT = ("multirun_outputs", "mlflow.db")


def chosen(given: str | None) -> str | None:
    """The address that was given, else the variable's; None: the default store is used."""
    return given or os.environ.get(VARIABLE) or None


def default_uri(folder: Path | None = None) -> str:
    """The SQLite file that runs share when no address is given, below the folder they are started in (the current)."""
    from sqlalchemy.engine import URL  # heavy

    path = str((folder or Path.cwd()).absolute().joinpath(*_DEFAULT))
    quoted = URL.create("sqlite", database=path).render_as_string(hide_password=False)  # ?, # and %, say
    # For `sqlite:///` MLflow makes the folder, by its quoted name; under the driver's name it leaves that to us.
    return quoted if quoted.endswith(path) else quoted.replace("sqlite:", "sqlite+pysqlite:", 1)


def is_default(path: Path) -> bool:
    """Whether an SQLite file is the one that runs share which are started in some folder."""
    return path.absolute().parts[-2:] == _DEFAULT


def named(given: str | None, key: str = "tracker.uri") -> str:
    """The store as a message names it: "tracker.uri=http://***@host", by what said so."""
    uri = chosen(given)
    if uri is None:
        return f"{sqlite_file(default_uri())} (the default)"
    said = VARIABLE if uri == os.environ.get(VARIABLE) else key
    return f"{said}={secrets.masked(secrets.visible(uri))}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address, `sqlite:///file:path?uri=true` too; None for other stores and one in memory."""
    if not uri.startswith(("sqlite:", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url  # heavy
    from sqlalchemy.exc import ArgumentError

    try:
        database = make_url(uri).database
    except (ArgumentError, ValueError):  # MLflow is about to refuse it
        return None
    if not database or database == ":memory:":
        return None
    return Path(unquote(urlsplit(database).path) if database.startswith("file:") else database)


def refuse_missing(given: str | None, key: str) -> None:
    """Reading makes no database, and no tables in somebody else's, which MLflow would do.

    Raises:
      UserError: the SQLite file is not there, or is no database of MLflow's.
    """
    path = sqlite_file(chosen(given) or default_uri())
    if path is None:
        return
    right = f"run a sweep first (make sweep), start this where one was run, or name its store ({key})"
    if not path.is_file():
        raise UserError(f"{named(given, key)}: is not there; {right}")
    try:
        found = tables(path)
    except sqlite3.Error as error:
        raise UserError(f"{named(given, key)}: cannot be read ({error}); {right}") from error
    if MLFLOWS not in found:
        raise UserError(f"{named(given, key)}: is no database of MLflow's; {right}")


def tables(path: Path) -> set[str]:
    """The tables of an SQLite file, which is only read. Raises sqlite3.Error if that is not possible."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        return {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
