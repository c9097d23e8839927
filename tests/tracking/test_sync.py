"""MLflow says what the folder says, however it was lost: a real server that goes away, deleted runs, lost rounds."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow_server import Server

from fedsweep.pareto import load

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
    table = {row["mlflow_run_id"]: row for row in csv.DictReader((folder / "trials.csv").open())}
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


def test_a_server_that_goes_away_and_comes_back_has_everything_at_the_end(server, tmp_path):
    """Once it is back before the sweep ends; once it comes back later, and the sweep is resumed."""
    folder = tmp_path / "multirun_outputs" / "seen"
    sweep = [*SWEEP, f"tracker.uri={server.uri}"]
    running = command(tmp_path, *sweep, "encoder.bits=2,4,8")
    try:
        wait_for(lambda: rounds(folder / "0") > 1, running)
        server.kill()
        wait_for(lambda: rounds(folder / "1") > 1, running)
        server.start()
        said, complained = running.communicate(timeout=300)
    finally:
        running.kill()
    assert running.returncode == 0, complained
    assert "a tracker was not told: trial 0 encoder.bits=2: " in complained and "trial 1 encoder.bits=4: " in complained
    assert "MLflow now has what the folder has" in said and "tracking.sync" not in complained
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
