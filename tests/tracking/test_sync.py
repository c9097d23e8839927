"""MLflow says what the folder says, however it was lost: a real server that goes away, deleted runs, lost rounds."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import filelock
import mlflow
import pandas as pd
import psutil
import pytest
import yaml
from mlflow_server import Server

from fedsweep import schema, secrets
from fedsweep.errors import UserError
from fedsweep.pareto import load
from fedsweep.sweep import record as records
from fedsweep.sweep.lock import locked
from fedsweep.sweep.record import Record
from fedsweep.tracking import mlflow_store, mlflow_sync, sync
from fedsweep.tracking.base import About, Place
from fedsweep.tracking.mlflow_tracker import MlflowTracker, Parent
from fedsweep.tracking.run_folder import RoundRow, RunFolder

SWEEP = (
    "-m", "rounds=30", "evaluate_every=5", "model=2nn", "clients_per_round=3", "encoder.threshold=1000",
    "sweep.max_workers=1", "hydra.sweep.dir=multirun_outputs/seen",
)  # fmt: skip


def parent_of(folder: Path) -> str:
    return yaml.safe_load((folder / "sweep.yaml").read_text())["mlflow_run_id"]


def children(client: mlflow.MlflowClient, parent: str) -> list[mlflow.entities.Run]:
    experiment = client.get_run(parent).info.experiment_id
    return client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")


def assert_equal(folder: Path, uri: str) -> None:
    """The folder and the run that its sweep.yaml names give the same sweep, and MLflow has everything once."""
    here, there = load.from_folder(folder), load.from_mlflow(parent_of(folder), uri)
    pd.testing.assert_frame_equal(here.rounds, there.rounds)
    for name in ("name", "keys", "points", "float32", "seeds", "left_out"):
        assert getattr(here, name) == getattr(there, name), name
    assert sorted(here.run_ids) == sorted(there.run_ids)
    for trial in here.points:
        assert here.plan(trial) == there.plan(trial)
        assert here.value(trial, "encoder.bits") == there.value(trial, "encoder.bits")

    client = mlflow.MlflowClient(uri)
    parent = client.get_run(parent_of(folder))
    assert (parent.info.status, parent.data.tags["status"]) == ("FINISHED", "complete")
    rows = [row for row in csv.DictReader((folder / "trials.csv").open()) if row["status"] != "duplicate"]
    table = {row["mlflow_run_id"]: row for row in rows}
    found = children(client, parent.info.run_id)
    assert {run.info.run_id for run in found} == set(table)
    for run in found:
        row, tags = table[run.info.run_id], run.data.tags
        assert (tags["status"], run.info.status, tags["on_front"]) == ("complete", "FINISHED", row["on_front"].lower())
        assert (tags["trial"], tags["replicate"], tags["sweep"]) == (row["trial"], row["replicate"], folder.name)
        assert "undelivered_rounds" not in tags and len(run.inputs.dataset_inputs) == 1
        assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"config.yaml", "plan.json"}
        place = folder / row["trial"]
        assert json.loads((place / "result.json").read_text())["mlflow_run_id"] == run.info.run_id
        rounds = len((place / "rounds.csv").read_text().splitlines()) - 1
        for metric in ("train/loss", "bits/total", "bits_log10/uplink"):
            steps = [entry.step for entry in client.get_metric_history(run.info.run_id, metric)]
            assert sorted(steps) == list(range(1, rounds + 1)), metric


def command(folder: Path, *arguments: str, module: str = "fedsweep") -> subprocess.Popen:
    run = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(run, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, running: subprocess.Popen, seconds=180) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition(), running.communicate()


def rounds(folder: Path) -> int:
    path = folder / "rounds.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


@pytest.fixture
def server(tmp_path, migrated_database):
    place = tmp_path / "server"
    place.mkdir()
    shutil.copy(migrated_database, place / "mlflow.db")
    server = Server(place)
    server.start()
    yield server
    server.kill()


@pytest.mark.exhaustive  # tests/crash does it too
def test_a_server_that_goes_away_and_comes_back_has_everything_at_the_end(server, tmp_path):
    """Once it is back before the sweep ends; once it comes back later, and the sweep is resumed."""
    folder = tmp_path / "multirun_outputs" / "seen"
    sweep = [*SWEEP, f"tracker.uri={server.uri}"]
    running = command(tmp_path, *sweep, "encoder.bits=2,4,8")
    try:
        wait_for(lambda: rounds(folder / "0") > 1, running)
        server.kill()
        wait_for(lambda: rounds(folder / "1") > 1, running)
        (worker,) = (p for p in psutil.Process(running.pid).children() if "fedsweep.sweep.worker" in p.cmdline())
        worker.suspend()  # the server takes longer to start than the trials to end
        server.start()
        worker.resume()
        said, complained = running.communicate(timeout=300)
    finally:
        running.kill()
    assert running.returncode == 0, complained
    assert "a tracker was not told: trial 0 encoder.bits=2: " in complained and "trial 1 encoder.bits=4: " in complained
    assert "MLflow now has what the folder has" in said, complained
    assert "tracking.sync" not in complained
    assert_equal(folder, server.uri)

    running = command(tmp_path, *sweep, "encoder.bits=2,4,8,6", "sweep.resume=latest", "sweep.extend=true")
    try:
        wait_for(lambda: rounds(folder / "3") > 1, running)
        server.kill()
        _, complained = running.communicate(timeout=300)
    finally:
        running.kill()
    assert running.returncode == 0, complained
    assert f"python -m fedsweep.tracking.sync {Path('multirun_outputs/seen')} brings it there" in complained
    server.start()
    before = {run.info.run_id for run in children(mlflow.MlflowClient(server.uri), parent_of(folder))}
    running = command(tmp_path, *sweep, "encoder.bits=2,4,8,6", "sweep.resume=latest")
    said, complained = running.communicate(timeout=300)
    assert running.returncode == 0 and "a tracker was not told" not in complained, complained
    assert_equal(folder, server.uri)
    assert {run.info.run_id for run in children(mlflow.MlflowClient(server.uri), parent_of(folder))} == before


@pytest.fixture
def copied(tracked, tmp_path, migrated_database):
    """A real sweep's folder, and a store that has never heard of it: (folder, its URI)"""
    folder = tmp_path / "seen"
    shutil.copytree(tracked, folder)
    shutil.copy(migrated_database, tmp_path / "other.db")
    return folder, f"sqlite:///{tmp_path}/other.db"


def contents(folder: Path, uri: str) -> object:
    """All that the folder and the store hold."""
    client = mlflow.MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = {run.info.run_id: run.to_dictionary() for run in client.search_runs(experiments, run_view_type=3)}
    histories = {
        (run_id, key): [(m.step, m.value) for m in client.get_metric_history(run_id, key)]
        for run_id, run in runs.items()
        for key in run["data"]["metrics"]
    }
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("result.json")}
    return runs, histories, files, (folder / "trials.csv").read_bytes(), (folder / "sweep.yaml").read_bytes()


def test_a_store_that_never_heard_of_a_sweep_gets_all_of_it_once(copied, capsys):
    folder, uri = copied
    sync.sweep(folder, uri)
    assert "(made); runs of its trials: 3 made" in capsys.readouterr().out
    assert_equal(folder, uri)
    before = contents(folder, uri)
    sync.sweep(folder, uri)
    assert "runs of its trials: 3 right already" in capsys.readouterr().out
    assert contents(folder, uri) == before
    parent = mlflow.MlflowClient(uri).get_run(parent_of(folder))
    assert "Pareto front" in parent.data.tags["mlflow.note.content"]
    assert parent.info.end_time == max(
        run.info.end_time for run in children(mlflow.MlflowClient(uri), parent.info.run_id)
    )


def test_a_synced_run_is_what_a_tracked_one_is(tracked, copied):
    """Tags, parameters, data set, metrics; but for ids, processes and what only the trial's process knows."""
    folder, uri = copied
    original = load_runs(f"sqlite:///{tracked.parent}/mlflow.db", parent_of(tracked))
    sync.sweep(folder, uri)
    synced = load_runs(uri, parent_of(folder))
    assert synced == original and len(synced) == 4


def load_runs(uri: str, parent: str) -> dict[str, object]:
    client = mlflow.MlflowClient(uri)
    unlike = {"fedsweep.process", "mlflow.parentRunId", "mlflow.user", "mlflow.source.name", "mlflow.source.type"}
    return {
        run.info.run_name: (
            {key: value for key, value in run.data.tags.items() if key not in unlike},
            run.data.params,
            run.data.metrics,
            run.info.status,
            [(d.dataset.name, d.dataset.digest, d.dataset.source) for d in run.inputs.dataset_inputs],
        )
        for run in [client.get_run(parent), *children(client, parent)]
    }


def test_lost_rounds_deleted_and_strange_runs_are_mended(copied, capsys):
    folder, uri = copied
    sync.sweep(folder, uri)
    client, former = mlflow.MlflowClient(uri), parent_of(folder)
    runs = {int(run.data.tags["trial"]): run.info.run_id for run in children(client, former)}
    experiment = client.get_run(former).info.experiment_id
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        # in the middle of one metric, and the end of all: MLflow's table of last values knows what is there
        database.execute("DELETE FROM metrics WHERE run_uuid=? AND step=1 AND key='train/loss'", [runs[0]])
        database.execute("DELETE FROM metrics WHERE run_uuid=? AND step=2", [runs[1]])
        database.execute("DELETE FROM latest_metrics WHERE run_uuid=? AND step=2", [runs[1]])
    client.set_tag(runs[1], "undelivered_rounds", "1")
    client.set_terminated(runs[1], "FAILED")
    client.log_metric(runs[2], "test/accuracy", 0.123, step=2)  # twice
    client.create_run(experiment, tags={"mlflow.parentRunId": former, "trial": "0", "replicate": "0"})
    client.create_run(experiment, tags={"mlflow.parentRunId": former, "trial": "7", "replicate": "0"})
    mine = client.create_run(experiment, tags={"mlflow.parentRunId": former}).info.run_id  # no run of fedsweep's
    capsys.readouterr()
    sync.sweep(folder, uri)
    assert "1 made, 2 completed, 3 deleted" in capsys.readouterr().out
    client.delete_run(mine)
    assert parent_of(folder) == former
    assert_equal(folder, uri)

    client.delete_run(former)
    client.delete_run(runs[1])
    sync.sweep(folder, uri)
    assert parent_of(folder) != former
    assert_equal(folder, uri)
    assert not children(client, former)


def test_a_run_that_has_ended_without_a_plan_and_one_that_was_killed(copied, capsys):
    folder, uri = copied
    sync.sweep(folder, uri)
    client = mlflow.MlflowClient(uri)
    runs = {int(run.data.tags["trial"]): run.info.run_id for run in children(client, parent_of(folder))}
    result = json.loads((folder / "1" / "result.json").read_text())
    (folder / "0" / "result.json").write_text('{"status": "failed", "error": "no memory"}')
    (folder / "1" / "result.json").write_text(json.dumps({**result, "status": "running"}))
    (folder / "2" / "config.yaml").write_bytes(b"\xff")
    sync.sweep(folder, uri)
    said = capsys.readouterr()
    assert said.err.startswith("fedsweep: left out: ") and str(folder / "2") in said.err
    found = {int(run.data.tags["trial"]): run for run in children(client, parent_of(folder))}
    assert {trial: run.info.run_id for trial, run in found.items()} == runs
    assert [found[trial].data.tags["status"] for trial in range(3)] == ["failed", "failed", "complete"]
    assert json.loads((folder / "0" / "result.json").read_text())["mlflow_run_id"] == runs[0]
    assert client.get_run(parent_of(folder)).data.tags["status"] == "failed"


def test_a_folder_that_is_in_use_or_none_is_one_line(copied, tmp_path, monkeypatch, capsys):
    folder, uri = copied
    for arguments, says in {
        (str(tmp_path), "--tracking-uri", uri): f"{tmp_path}: is neither a sweep's folder",
        ("latest",): "holds no sweep",
        (str(folder), "--tracking-uri", "http://127.0.0.1:9"): "tracker.uri=http://127.0.0.1:9: cannot be used",
    }.items():
        monkeypatch.chdir(tmp_path / "..")
        monkeypatch.setattr(sys, "argv", ["sync", *arguments])
        with pytest.raises(SystemExit) as ended:
            sync.main()
        assert ended.value.code == 1 and says in capsys.readouterr().err
    with filelock.FileLock(folder / ".lock"), pytest.raises(UserError, match="another process runs this sweep"):
        sync.sweep(folder, uri)
    (folder / "0" / "config.yaml").write_text(
        (folder / "0" / "config.yaml").read_text().replace("uri: null", "uri: http://***@127.0.0.1:9")
    )
    with pytest.raises(UserError, match="--tracking-uri or MLFLOW_TRACKING_URI names the store"):
        sync.sweep(folder, None)


@pytest.mark.parametrize("known", [False, True])
def test_a_single_run_is_brought_too(tracked, copied, tmp_path, capsys, known):
    _, uri = copied
    folder = tmp_path / "single"
    shutil.copytree(tracked / "1", folder)
    if known:  # half of it
        client = mlflow.MlflowClient(uri)
        run_id = client.create_run("0").info.run_id
        result = json.loads((folder / "result.json").read_text()) | {"mlflow_run_id": run_id}
        (folder / "result.json").write_text(json.dumps(result))
    sync.single(folder, uri)
    run = mlflow.MlflowClient(uri).get_run(json.loads((folder / "result.json").read_text())["mlflow_run_id"])
    assert (run.info.run_id == run_id) if known else ("1 made" in capsys.readouterr().out)
    assert run.info.status == "FINISHED" and run.data.params["encoder.bits"] == "4"
    last = list(csv.DictReader((folder / "rounds.csv").open()))[-1]
    assert run.data.metrics["bits/total"] == int(last["total_bits"])
    sync.single(folder, uri)
    assert "1 right already" in capsys.readouterr().out


def single_run(tracked: Path, folder: Path) -> Path:
    """A single run's folder, whose run no store knows."""
    shutil.copytree(tracked / "1", folder)
    result = json.loads((folder / "result.json").read_text())
    for key in ("mlflow_run_id", "sha256", "point"):
        result.pop(key, None)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_single_run_that_goes_on_is_not_brought(tracked, copied, tmp_path):
    """Though no tracker says so (tracker=csv). (Before: it was brought as one that had failed.)"""
    folder = single_run(tracked, tmp_path / "single")
    with locked(folder, "run"), pytest.raises(UserError, match="another process runs this run"):
        sync.single(folder, copied[1])
    sync.single(folder, copied[1])
    assert not (folder / ".lock").exists()


def test_a_single_run_holds_the_lock_of_its_folder_while_it_runs(config, tmp_path, monkeypatch):
    from fedsweep import job, trial

    def run(config, folder, name, progress):
        with pytest.raises(UserError, match="another process runs this run"), locked(folder, "run"):
            pass
        raise ArithmeticError

    monkeypatch.setattr(trial, "run", run)
    with pytest.raises(ArithmeticError):
        job.run_single(config("tracker=csv"), str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("earlier", [False, True])
def test_a_single_run_that_was_killed_before_its_folder_knew_its_id_is_brought_once(
    tracked, copied, tmp_path, capsys, earlier
):
    """But an earlier run in a folder of this name stays what it is. (Before: there were two of one run.)"""
    client = mlflow.MlflowClient(copied[1])
    folder = single_run(tracked, tmp_path / 'it\'s a "single" one')
    begun = int((folder / "config.yaml").stat().st_mtime * 1000)
    tags = {"fedsweep.folder": folder.as_uri()}
    experiment = mlflow_store.connect(schema.Tracker(mlflow=True, uri=copied[1]))[1]
    run = client.create_run(experiment, begun + (-5000 if earlier else 5), tags).info.run_id
    sync.single(folder, copied[1])
    assert ("1 made" if earlier else "1 completed") in capsys.readouterr().out
    found = json.loads((folder / "result.json").read_text())["mlflow_run_id"]
    assert (found == run) == (not earlier)
    assert client.get_run(run).info.status == ("RUNNING" if earlier else "FINISHED")
    assert client.get_run(found).data.tags["fedsweep.folder"] == folder.as_uri()


@pytest.mark.parametrize("known", ["by the run", "by the place"])
def test_the_store_is_the_one_of_the_run_wherever_sync_is_called(
    tracked, tmp_path, migrated_database, monkeypatch, capsys, known
):
    """(Before: a new database in the current folder; and the variable's name for the default.)"""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / "multirun_outputs").mkdir(parents=True)
    shutil.copy(migrated_database, home / "multirun_outputs" / "mlflow.db")
    folder = single_run(tracked, home / "multirun_outputs" / "a" if known == "by the place" else tmp_path / "a")
    environment = json.loads((folder / "environment.json").read_text())
    assert Path(environment.pop("started_in")).name == tracked.parents[1].name  # where the sweep was started
    if known == "by the run":
        environment["started_in"] = str(home)
    (folder / "environment.json").write_text(json.dumps(environment))
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}/variable.db")
    sync.single(folder, None)
    assert f"sqlite:///{home}/multirun_outputs/mlflow.db: run" in capsys.readouterr().out
    assert list(elsewhere.iterdir()) == []
    client = mlflow.MlflowClient(f"sqlite:///{home}/multirun_outputs/mlflow.db")
    run = client.get_run(json.loads((folder / "result.json").read_text())["mlflow_run_id"])
    assert run.info.artifact_uri.startswith((home / "multirun_outputs" / "mlflow_artifacts").as_uri())


def test_a_parent_that_was_deleted_while_its_sweep_ran_is_made_as_it_was(copied):
    folder, uri = copied
    sync.sweep(folder, uri)
    client, first = mlflow.MlflowClient(uri), parent_of(folder)
    record = Record.read(folder)
    tracker = schema.Tracker(mlflow=True, uri=uri)
    parent = Parent(tracker, folder, record, "0" * 40, ["-m", "encoder.bits=2,4"])
    before = client.get_run(parent.run_id)
    assert parent.run_id == first and before.info.status == "RUNNING"
    client.delete_run(first)
    parent.sync(folder, record, records.begun_trials(folder, record), None)
    parent.close("complete")
    after = client.get_run(parent.run_id)
    assert parent.run_id == parent_of(folder) != first and not parent.lost
    for key in ("sweep", "space", "encoder", "dataset", "mlflow.note.content"):
        assert after.data.tags[key] == before.data.tags[key], key
    assert after.data.tags["git_commit"] == "0" * 40
    assert [item.path for item in client.list_artifacts(parent.run_id)] == ["sweep.yaml"]
    assert len(children(client, parent.run_id)) == 3


def test_what_is_tracked_and_what_is_synced_are_the_same_with_quotes_and_secrets(
    config, tmp_path, migrated_database, monkeypatch
):
    """(Before: parameters as the process had them, not as config.yaml has them.)"""
    uris = []
    for name in ("tracked", "synced"):
        shutil.copy(migrated_database, tmp_path / f"{name}.db")
        uris.append(f"sqlite:///{tmp_path}/{name}.db?token=hunter2secret&timeout=20")
    command = ["fedsweep", f"tracker.uri={uris[0]}", "dataset.file='it''s \"it\"'"]
    data = {"description": 'it\'s "it"', "source": "/a/'b'", "sha256": "0" * 64}
    environment = secrets.masked_tree({"command": command, "git_commit": None, "data": data, "started_in": "/"})
    checked = config(f"tracker.uri='{uris[0]}'", "rounds=2", "evaluate_every=1")
    names = ("clients", "messages", "float32_uplink_bits", "float32_downlink_bits", "uplink_bits", "downlink_bits")
    plan = dict.fromkeys(names, 1) | {"uplink": [], "downlink": []}
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "s" / "0"
    place = Place("s", None, 0, 0, {"dataset.file": 'it\'s "it" <b>|`x`'})
    columns = [field.name for field in dataclasses.fields(RoundRow)][:9]
    with RunFolder(folder, checked, environment, columns) as files:
        about = About("trial 0", folder, environment, plan, None, place)
        tracker = MlflowTracker(checked, about)
        files.write_result({"status": "running", "mlflow_run_id": tracker.run_id, "plan": plan})
        for number in (1, 2):
            row = RoundRow(number, 1.0, 0.5, 0.5, 0.25, 10 * number, 10 * number, 20 * number, 0.1)
            files.log_round(row)
            tracker.log_round(row)
        end = {"rounds": 2, "test_accuracy": 0.25, "uplink_bits": 20, "downlink_bits": 20, "total_bits": 40}
        files.write_result({"status": "complete", "plan": plan, **end})
        tracker.finish("complete")
    brought = mlflow_sync.read(folder, "trial 0", place)
    client, experiment = mlflow_store.connect(schema.Tracker(mlflow=True, uri=uris[1]))
    run_id = mlflow_sync.Store(client, experiment).bring(brought, None, None)
    unlike = {"fedsweep.process", "mlflow.user", "mlflow.source.name", "mlflow.source.type"}
    pair = [
        (
            {k: v for k, v in run.data.tags.items() if k not in unlike},
            run.data.params,
            run.data.metrics,
            run.info.status,
        )
        for run in (tracker._client.get_run(tracker.run_id), client.get_run(run_id))
    ]
    assert pair[0] == pair[1] and "hunter2" not in repr(pair)
    assert json.loads(pair[0][0]["point"]) == place.point
    again = mlflow_sync.Store(tracker._client, tracker._client.get_run(tracker.run_id).info.experiment_id, True)
    assert again.bring(brought, again.find(tracker.run_id), None) == tracker.run_id
    assert str(again.tally) == "1 right already"


@pytest.mark.parametrize(("tracker", "hint"), [("mlflow", True), ("tensorboard", False)])
def test_what_a_single_run_could_not_tell_its_tracker_is_its_last_word(
    config, tmp_path, monkeypatch, capsys, tracker, hint
):
    from fedsweep import job, trial

    def run(config, folder, name, progress):
        progress.untracked("metrics of 3 rounds were not delivered")
        raise ArithmeticError("and then it failed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "run", run)
    with pytest.raises(ArithmeticError):
        job.run_single(config(f"tracker={tracker}"), "my out")
    said = capsys.readouterr().err
    assert said.startswith("fedsweep: a tracker was not told: metrics of 3 rounds were not delivered")
    assert ("python -m fedsweep.tracking.sync 'my out' brings it to MLflow" in said) == hint and said.count("\n") == 1
