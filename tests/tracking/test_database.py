"""The first build of MLflow's database: killed at many moments, it is there as a whole or not at all."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from fedsweep.errors import UserError
from fedsweep.pareto import load
from fedsweep.tracking import database, mlflow_store

# Processes that share their imports are killed before their nth statement; n: the arguments. Prints what each left.
_KILLED = """
import os, signal, sys
from pathlib import Path
import sqlalchemy
from fedsweep import schema
from fedsweep.tracking import mlflow_store

for last in map(int, sys.argv[2:]):
    if not os.fork():
        count = 0

        def strike(*_):
            global count
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

        sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", strike)
        mlflow_store.connect(schema.Tracker(mlflow=True, uri=sys.argv[1]))
        os._exit(0)
    _, status = os.wait()
    seen = sorted(path.name for path in Path().iterdir() if not path.name.startswith("."))
    print(os.WTERMSIG(status), seen, flush=True)
"""


@pytest.mark.parametrize("uri", ["sqlite:///mine.db", "sqlite:///file:mine.db?uri=true"])
def test_a_first_build_that_is_killed_leaves_no_half_database(tmp_path, monkeypatch, config, uri):
    moments = ["2", "40", "90", "150"] if "file:" not in uri else ["40"]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, uri, *moments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    # FileLock's file stays; the database never had its name
    assert done.stdout.splitlines() == ["9 ['mine.db.lock']"] * len(moments), done.stderr
    assert (tmp_path / ".mine.db.draft").exists()
    monkeypatch.chdir(tmp_path)
    client, _ = mlflow_store.connect(config(f"tracker.uri='{uri}'").tracker)
    assert client.search_experiments()
    assert not list(tmp_path.glob(".mine.db*"))


def write(config, uri: str) -> None:
    mlflow_store.connect(config(f"tracker.uri={uri}").tracker)


def read(_, uri: str) -> None:
    load.from_mlflow("0" * 32, uri)


def show(_, uri: str) -> None:
    with mlflow_store.reading(uri, "MLFLOW_TRACKING_URI", "name another") as client:
        client.search_experiments()


@pytest.mark.parametrize("use", [write, read, show])
def test_a_half_made_database_that_is_found_says_what_to_do(tmp_path, config, migrated_database, use):
    """What earlier versions left: tables of which the record of migrations does not know."""
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(migrated_database) as whole, sqlite3.connect(path) as half:
        whole.backup(half)
    with sqlite3.connect(path) as half:
        half.execute("DROP TABLE experiment_tags")
        half.execute("DELETE FROM alembic_version")
    with pytest.raises(UserError, match=r"mlflow\.db: is half-made: .* move the file away, .*tracking\.sync") as told:
        use(config, f"sqlite:///{path}")
    assert len(str(told.value).splitlines()) == 1 and path.exists()


def test_the_file_of_a_uri():
    for uri, path in {
        "sqlite:////a/b/mlflow.db": "/a/b/mlflow.db",
        "sqlite:///mlflow.db": "mlflow.db",
        "sqlite+pysqlite:////a/mlflow.db?timeout=9": "/a/mlflow.db",
        "sqlite:////a/b%3Fc/mlflow.db": "/a/b?c/mlflow.db",
        "sqlite:///file:/a/b%253Fc/mlflow.db?uri=true": "/a/b?c/mlflow.db",
        "sqlite:///file:///a/mlflow.db?uri=true": "/a/mlflow.db",
        "sqlite:///file:/a/mlflow.db?mode=ro&uri=true": None,
        "sqlite:///:memory:": None,
        "sqlite://": None,
        "postgresql://a/b": None,
        "http://127.0.0.1:5000": None,
    }.items():
        assert database.file_of(uri) == (path and Path(path)), uri


def test_a_database_that_is_there_is_not_touched(tmp_path, migrated_database):
    """Nor one that SQLite has not written to yet: MLflow's own, of a user who has just started a server."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(migrated_database.read_bytes())
    before = path.stat()
    database.make(f"sqlite:///{path}")
    assert path.stat() == before and [p.name for p in tmp_path.iterdir()] == ["mlflow.db"]
    assert mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()


def test_a_database_of_somebody_elses_is_left_alone(tmp_path, config):
    path = tmp_path / "studies.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE studies (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"studies\.db: is no database of MLflow's.*; name another"):
        mlflow_store.connect(config(f"tracker.uri=sqlite:///{path}").tracker)
    assert path.read_bytes() == before
