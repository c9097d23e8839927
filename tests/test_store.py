"""One rule says which MLflow store is used, by those who write and those who read."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import mlflow
import pytest
import sqlalchemy

from fedsweep import schema, store, tracking
from fedsweep.errors import UserError
from fedsweep.pareto import load
from fedsweep.sweep import resume
from fedsweep.tracking import mlflow_store

RUN_ID = "0" * 32


def test_the_key_wins_over_the_variable_and_the_variable_over_the_default(config, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert config().tracker.uri is None and store.named(None).endswith("multirun_outputs/mlflow.db (the default)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2secret@variable")
    assert config().tracker.uri == "http://me:hunter2secret@variable" == store.chosen(None)
    assert store.named(None) == "MLFLOW_TRACKING_URI=http://***@variable"
    assert config("tracker.uri=http://key").tracker.uri == "http://key"
    assert store.named("http://key") == "tracker.uri=http://key"
    assert config("tracker=csv").tracker.uri is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert config().tracker.uri is None


@pytest.mark.parametrize("name", ["a?b#c d%20e&f", "plain", "50%", "ü+x"])
def test_the_default_is_below_the_working_folder_whatever_its_name(
    config, tmp_path, tmp_path_factory, monkeypatch, migrated_database, name
):
    folder = tmp_path / name
    (folder / "multirun_outputs").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = folder / "multirun_outputs" / "mlflow.db"
    path.write_bytes(migrated_database.read_bytes())
    assert store.sqlite_file(store.default_uri()) == path
    client, experiment = mlflow_store.connect(config().tracker)
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "text", "a.txt")
    downloaded = client.download_artifacts(run, "a.txt", tmp_path_factory.mktemp("downloaded"))
    assert Path(downloaded).read_text() == "text"
    with sqlite3.connect(path) as database:
        assert database.execute("select run_uuid from runs").fetchall() == [(run,)]
    assert [one.name for one in tmp_path.iterdir() if one.name != "cache"] == [name]
    assert list(folder.joinpath("multirun_outputs", "mlflow_artifacts").glob("*/artifacts/a.txt"))


@pytest.mark.parametrize("uri", [None, "sqlite:///other.db", "sqlite:///sub/other.db?timeout=5"])
def test_reading_makes_no_database(tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for given in (uri, None):
        with pytest.raises(UserError, match="is not there") as refused:
            load.load(RUN_ID, given)
        assert "None" not in str(refused.value) and not list(tmp_path.iterdir())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri or "")


def test_reading_makes_no_tables_in_a_database_of_somebody_else(tmp_path):
    with sqlite3.connect(tmp_path / "studies.db") as database:
        database.execute("create table studies (x)")
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database" * 100)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in before:
        with pytest.raises(UserError, match=r"no database of MLflow's|cannot be read"):
            load.load(RUN_ID, f"sqlite:///{path}")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "uri",
    ["ftp://me:hunter2secret@h/x", "postgresql://me:hunter2secret@127.0.0.1:9/db", "http://me:hunter2secret@h y/"],
)
def test_a_store_that_cannot_be_used_is_one_line_without_its_password_for_all(config, tmp_path, monkeypatch, uri):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as read:
        load.load(RUN_ID, uri)
    with pytest.raises(UserError) as written:
        tracking.check(config(f"tracker.uri='{uri}'"))
    for message in (str(read.value), str(written.value)):
        assert "hunter2secret" not in message and "***@" in message and "\n" not in message
    assert str(read.value).startswith("--tracking-uri=") and str(written.value).startswith("tracker.uri=")


def test_readers_and_writers_give_up_on_a_dead_server_at_the_same_time(config, monkeypatch):
    """MLflow alone tries 7 times for two minutes, databases 10 times for one and a half."""
    tries: list[str] = []

    def refused(*_, **settings):
        tries.append(str(settings.get("timeout")))
        raise ConnectionError("refused")

    waits: list[float] = []
    monkeypatch.setattr("requests.Session.request", lambda *_, **s: refused(**s))
    monkeypatch.setattr("mlflow.store.db.utils.time.sleep", waits.append)
    for attempt in (lambda uri: load.load(RUN_ID, uri), lambda uri: tracking.check(config(f"tracker.uri='{uri}'"))):
        tries.clear()
        with pytest.raises(UserError, match="cannot be"):
            attempt("http://127.0.0.1:9")
        assert 1 <= len(tries) <= 2 and set(tries) == {"10"}
        waits.clear()
        with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be"):
            patch.setattr("mlflow.store.db.utils.create_sqlalchemy_engine", _no_database)
            attempt(f"postgresql://127.0.0.1:9/{len(tries)}{attempt.__code__.co_firstlineno}")
        assert sum(waits) < 1


def _no_database(_):
    return sqlalchemy.create_engine("sqlite:////nowhere/at/all.db")


def test_mlflow_prints_no_addresses_at_the_end_of_a_run(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "")
    run = mlflow.entities.RunInfo(RUN_ID, "0", "me", "RUNNING", 0, 0, "active", run_name="run")
    finished = mlflow.entities.Run(run, mlflow.entities.RunData())
    monkeypatch.setattr("mlflow.store.tracking.rest_store.RestStore.get_run", lambda *_: finished)
    with mlflow_store.reading("http://me:hunter2secret@127.0.0.1:9", "--tracking-uri", "") as client:
        client._tracking_client._log_url(RUN_ID)
    assert capsys.readouterr().out == ""


def test_a_sweep_that_goes_on_says_that_its_store_is_another_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "config.yaml").write_text("tracker: {mlflow: true, uri: 'http://***@old'}\n")
    resume.tell_other_store(tmp_path, schema.Tracker(mlflow=True, uri="http://me:hunter2secret@old"))
    assert capsys.readouterr().out == ""
    for uri, now in {"http://me:hunter2secret@new": "tracker.uri=http://***@new", None: "(the default)"}.items():
        resume.tell_other_store(tmp_path, schema.Tracker(mlflow=True, uri=uri))
        said = capsys.readouterr().out
        assert "http://***@old" in said and said.rstrip().endswith(now)
