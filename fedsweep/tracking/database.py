"""MLflow's SQLite database: it is there with all its tables, or not at all.

MLflow makes the tables in some fifty steps, which take seconds. A process that is killed in between would leave a file
that no later process can use, so they are made in a draft beside it, which then gets the name.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import urllib.parse
from pathlib import Path

import filelock
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.engine import make_url

from fedsweep import secrets, store
from fedsweep.errors import UserError

_LEFT_BY_SQLITE = ("", "-journal", "-wal", "-shm")
_HALF_MADE = ("already exists", "duplicate column name", "no such table", "no such column")
_OLD = "out-of-date database"
_FULL = "database or disk is full"


def file_of(uri: str) -> Path | None:
    """The file of an SQLite URI that may be written; None for any other store."""
    path = store.sqlite_file(uri)
    return None if path is None or make_url(uri).query.get("mode", "rwc") != "rwc" else path


def locked(uri: str) -> contextlib.AbstractContextManager:
    """The first to use a database makes its tables: one process at a time. Other stores need no lock."""
    path = file_of(uri)
    return filelock.FileLock(f"{path}.lock") if path and path.parent.is_dir() else contextlib.nullcontext()


def make(uri: str) -> None:
    """Makes the database of an SQLite URI with all its tables, unless there is one. The caller holds its lock."""
    path = file_of(uri)
    if path is None or not path.parent.is_dir():
        return
    draft = path.with_name(f".{path.name}.draft")
    for suffix in _LEFT_BY_SQLITE:
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    if path.exists() and path.stat().st_size:
        _refuse_others(path)
        return
    url = make_url(uri)
    name = f"file:{urllib.parse.quote(str(draft))}" if url.database.startswith("file:") else str(draft)
    drafted = url.set(database=name).render_as_string(hide_password=False)
    SqlAlchemyStore(drafted, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def _refuse_others(path: Path) -> None:
    """MLflow would make its tables beside those of somebody else's database."""
    try:
        tables = store.tables(path)
    except sqlite3.Error:  # MLflow says what is wrong with it
        return
    if tables and store.MLFLOWS not in tables:
        raise UserError(
            f"{path}: is no database of MLflow's, or one whose maker was killed; name another, or move the file away"
        )


def half_made(uri: str, error: Exception) -> str | None:
    """What to do about a database without room, or one that lacks tables or columns, if `error` is about that."""
    path = file_of(uri)
    if path and _FULL in str(error):
        return f"{path}: cannot be written (its disk is full); free some space"
    if path and _OLD in str(error):
        return (
            f"{path}: its tables are those of an earlier MLflow, or a process was killed while it made them; copy it"
            f" and run mlflow db upgrade {shlex.quote(secrets.visible(uri))}, or move the file away"
        )
    if path is None or not any(words in str(error) for words in _HALF_MADE):
        return None
    return (
        f"{path}: is half-made: a process was killed while it made or upgraded its tables; move the file away, then"
        " python -m fedsweep.tracking.sync FOLDER brings each sweep into a new one"
    )
