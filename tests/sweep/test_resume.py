"""Sweeps that are cut off, by real signals, and go on: the end is that of a sweep that was never cut off."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml

# two workers, a search, replicates, checkpoints in the middle
SWEEP = (
    "-m", "rounds=40", "evaluate_every=5", "checkpoint_every=4", "model=2nn", "encoder.threshold=1000",
    "encoder.bits=int(interval(1,8))", "optimizer.client_lr=tag(log,interval(0.05,1))", "optimizer=fedavgm",
    "sweep.n_trials=4", "sweep.in_flight=2", "sweep.sampler.n_startup_trials=1", "replicates=2", "sweep.max_workers=2",
)  # fmt: skip


def rows(folder: Path, without=("mlflow_run_id",)) -> list[dict]:
    with (folder / "trials.csv").open() as file:
        return [{key: cell for key, cell in row.items() if key not in without} for row in csv.DictReader(file)]


def rounds(folder: Path) -> list[dict]:
    return [
        {key: cell for key, cell in row.items() if key != "seconds"}
        for row in csv.DictReader((folder / "rounds.csv").open())
    ]


def start(fedsweep, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fedsweep", *arguments]
    return subprocess.Popen(command, cwd=fedsweep.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition, running: subprocess.Popen, seconds=120) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def tracked(folder: Path) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/multirun_outputs/mlflow.db")
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def workers(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children() if "fedsweep.sweep.worker" in p.cmdline()]


@pytest.fixture(scope="module")
def whole(made_once) -> Path:
    """The sweep, never cut off."""
    command = [sys.executable, "-m", "fedsweep", *SWEEP, "tracker=csv", "hydra.sweep.dir=out"]
    place = made_once("whole", lambda place: subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL))
    assert len(rows(place / "out")) == 8
    return place / "out"


@pytest.mark.exhaustive  # tests/crash kills sweeps, in its short form too
@pytest.mark.usefixtures("ready_store")
def test_a_killed_sweep_goes_on_and_ends_as_if_it_had_not_been(fedsweep, whole):
    """SIGKILL in the middle of runs, twice; MLflow gets every round once."""
    folder = fedsweep.folder / "multirun_outputs" / "sweep"
    for trial in ("0", "2"):
        arguments = ["sweep.resume=latest"] if folder.exists() else ["hydra.sweep.dir=multirun_outputs/sweep"]
        running = start(fedsweep, *SWEEP, *arguments)
        # a checkpoint is there, and the run has gone past it
        path = folder / trial / "0"
        wait_for(lambda path=path: (path / "checkpoint.npz").exists() and len(rounds(path)) > 10, running)
        alive = workers(running.pid)
        assert len(alive) == 2
        running.kill()
        running.wait()
        assert not psutil.wait_procs(alive, timeout=20)[1]  # its workers have noticed
        assert "interrupted" not in (path / "result.json").read_text()
        # nothing shows as running for ever: the process that watches the sweep closes their runs and the sweep's
        deadline = time.monotonic() + 60
        while "RUNNING" in (found := {run.info.status for run in tracked(fedsweep.folder)}):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
    finished = {path for path in folder.glob("*/*/result.json") if json.loads(path.read_text())["status"] == "complete"}
    changed = {path: path.stat().st_mtime_ns for path in finished}

    done = fedsweep(*SWEEP, "sweep.resume=latest", "hydra.sweep.dir=multirun_outputs/another")
    assert done.returncode == 0, done.stderr
    assert not (fedsweep.folder / "multirun_outputs" / "another").exists()
    assert changed and all(path.stat().st_mtime_ns == changed[path] for path in finished)  # not run again
    assert rows(folder) == rows(whole)
    for path in whole.glob("[0-9]*/*"):
        assert rounds(folder / path.relative_to(whole)) == rounds(path)
    left = [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.suffix in (".npz", ".lock")]
    assert left == []

    client = mlflow.MlflowClient(f"sqlite:///{fedsweep.folder}/multirun_outputs/mlflow.db")
    parent = yaml.safe_load((folder / "sweep.yaml").read_text())["mlflow_run_id"]
    experiment = client.get_run(parent).info.experiment_id
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    assert {run.info.run_id for run in children} == {row["mlflow_run_id"] for row in rows(folder, without=())}
    assert {run.info.status for run in [*children, client.get_run(parent)]} == {"FINISHED"}
    for run in children:
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "bits/total")]
        assert sorted(steps) == list(range(1, 41))


@pytest.mark.exhaustive
def test_a_killed_worker_is_replaced_and_its_run_goes_on(fedsweep, whole):
    folder = fedsweep.folder / "out"
    running = start(fedsweep, *SWEEP, "tracker=csv", "hydra.sweep.dir=out")
    try:
        wait_for(lambda: (folder / "0" / "0" / "checkpoint.npz").exists(), running)
        for worker in workers(running.pid):  # both
            worker.kill()
        assert running.wait(timeout=300) == 0
    finally:
        running.kill()
    assert rows(folder) == rows(whole)
    for path in whole.glob("[0-9]*/*"):
        assert rounds(folder / path.relative_to(whole)) == rounds(path)


def test_without_retries_a_killed_worker_is_one_failed_trial(fedsweep):
    folder = fedsweep.folder / "out"
    command = [
        "-m",
        "rounds=60",
        "evaluate_every=60",
        "model=2nn",
        "encoder.bits=2,4",
        "tracker=csv",
        "sweep.retries=0",
    ]
    running = start(fedsweep, *command, "sweep.max_workers=1", "hydra.sweep.dir=out")
    try:
        wait_for(lambda: (folder / "0" / "rounds.csv").exists() and len(rounds(folder / "0")) > 1, running)
        workers(running.pid)[0].kill()
        assert running.wait(timeout=300) == 2
    finally:
        running.kill()
    first, second = rows(folder)
    assert (first["status"], second["status"]) == ("failed", "complete")
    assert first["error"] == "its process was ended by SIGKILL, perhaps for want of memory"
    again = fedsweep(*command, "sweep.resume=out", "sweep.max_failures=1")
    assert again.returncode == 0, again.stderr  # a failed trial is over; one may fail
    assert rows(folder) == [first, second]


def test_ctrl_c_then_resume_and_what_may_not_differ(fedsweep):
    arguments = ["-m", "rounds=60", "evaluate_every=20", "model=2nn", "tracker=csv", "checkpoint_every=5"]
    space = ["encoder.bits=2,4", "encoder.threshold=2000,3000"]
    running = start(fedsweep, *arguments, *space, "hydra.sweep.dir=out")
    folder = fedsweep.folder / "out"
    try:
        wait_for((folder / "0" / "checkpoint.npz").exists, running)
        processes = [psutil.Process(running.pid), *workers(running.pid)]
        for process in processes:
            process.suspend()
        try:
            locked = fedsweep(*arguments, *space, "sweep.resume=out")
        finally:  # a worker that stands still would not notice that its sweep has ended
            for process in processes:
                process.resume()
        assert locked.returncode == 1 and "another process runs this sweep" in locked.stderr
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130
    finally:
        running.kill()
    assert "interrupted" in [row["status"] for row in rows(folder)]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    for change, says in {
        "rounds=61": "rounds was 60, is 61",
        "encoder.bits=2,4,8": "add sweep.extend=true",
    }.items():
        refused = fedsweep(*arguments, *space, change, "sweep.resume=out")
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1, change
        assert refused.stderr.startswith("fedsweep: sweep.resume: ") and says in refused.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    done = fedsweep(*arguments, "encoder.bits=2,8", space[1], "sweep.resume=out", "sweep.extend=true")
    assert done.returncode == 0, done.stderr
    table = rows(folder)
    assert [(row["encoder.bits"], row["encoder.threshold"]) for row in table] == [
        ("2", "2000"), ("2", "3000"), ("4", "2000"), ("4", "3000"), ("8", "2000"), ("8", "3000"),
    ]  # fmt: skip
    assert [row["status"] for row in table] == ["complete", "duplicate"] * 3


def test_there_must_be_a_sweep_to_go_on_with(fedsweep):
    for value, says in {"latest": "holds no sweep", "nowhere": "nowhere/sweep.yaml is not there"}.items():
        refused = fedsweep("-m", "encoder.bits=2,4", f"sweep.resume={value}", "tracker=csv")
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1 and says in refused.stderr
    assert not list(fedsweep.folder.iterdir())


def test_workers_that_die_while_they_start_or_wait_are_replaced(fedsweep):
    """One is killed as soon as it is there, one when it has nothing to do any more."""
    folder = fedsweep.folder / "out"
    running = start(fedsweep, "-m", "rounds=2,60", "evaluate_every=60", "model=2nn", "tracker=csv", "sweep.retries=0",
                    "sweep.max_workers=2", "hydra.sweep.dir=out")  # fmt: skip
    try:
        wait_for(lambda: len(workers(running.pid)) == 2, running)
        workers(running.pid)[0].kill()
        wait_for(lambda: (folder / "1" / "rounds.csv").exists() and len(rounds(folder / "1")) > 2, running)
        wait_for(lambda: [row["status"] for row in rows(folder)] == ["complete", "running"], running)
        log = os.path.realpath(folder / "1" / "log.txt")
        (idle,) = [w for w in workers(running.pid) if os.path.realpath(f"/proc/{w.pid}/fd/1") != log]
        idle.kill()
        assert running.wait(timeout=300) == 0
    finally:
        running.kill()
    assert [row["status"] for row in rows(folder)] == ["complete", "complete"]


@pytest.mark.exhaustive  # tests/sweep/test_damage.py has a full disk in this process
def test_a_file_that_cannot_be_written_stops_the_sweep_in_one_line_and_with_room_it_goes_on(fedsweep):
    """A limit on the size of files stands for a full disk: the checkpoint is the first that is too large."""
    arguments = ["-m", "rounds=6", "evaluate_every=3", "checkpoint_every=2", "model=2nn", "clients_per_round=3",
                 "encoder.bits=2,4", "encoder.threshold=1000", "sweep.max_workers=1", "tracker=csv"]  # fmt: skip
    command = ["bash", "-c", 'ulimit -f 100; exec "$0" "$@"', sys.executable, "-m", "fedsweep", *arguments]
    full = subprocess.run([*command, "hydra.sweep.dir=out"], cwd=fedsweep.folder, capture_output=True, text=True)
    assert full.returncode == 1
    (line,) = full.stderr.splitlines()
    assert line.startswith("fedsweep: ") and "/0/checkpoint.npz: File too large; raise the limit" in line
    folder = fedsweep.folder / "out"
    assert [row["status"] for row in rows(folder)] == ["interrupted"]
    done = fedsweep(*arguments, "sweep.resume=out")
    assert done.returncode == 0, done.stderr
    assert fedsweep(*arguments, "hydra.sweep.dir=whole").returncode == 0
    assert rows(folder) == rows(fedsweep.folder / "whole")
    for trial in ("0", "1"):
        assert rounds(folder / trial) == rounds(fedsweep.folder / "whole" / trial)
