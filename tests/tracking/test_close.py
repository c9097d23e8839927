"""What MLflow shows after a SIGKILL, at any moment of a sweep or a run; and what is left running."""

from __future__ import annotations

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
from variations import some

from fedsweep import schema
from fedsweep.tracking import close

RUN = ("rounds=30", "evaluate_every=5", "model=2nn", "clients_per_round=3", "encoder.threshold=1000")
SWEEP = ("-m", *RUN, "encoder.bits=2,4", "sweep.max_workers=1", "hydra.sweep.dir=multirun_outputs/killed")


def parent_id(folder: Path) -> str | None:
    path = folder / "sweep.yaml"
    return yaml.safe_load(path.read_text())["mlflow_run_id"] if path.exists() and path.stat().st_size else None


def table_is_complete(folder: Path) -> bool:
    path = folder / "trials.csv"
    return path.exists() and path.read_text().count("complete") == 2


def statuses(folder: Path) -> list[str]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/multirun_outputs/mlflow.db")
    return [run.info.status for run in client.search_runs([e.experiment_id for e in client.search_experiments()])]


MOMENTS = {
    "while workers start": (SWEEP, lambda folder: parent_id(folder / "killed")),
    "in rounds": (SWEEP, lambda folder: (folder / "killed" / "0" / "checkpoint.npz").exists()),
    "while figures are drawn": (SWEEP, lambda folder: table_is_complete(folder / "killed")),
    "a single run": (RUN, lambda folder: any(path.stat().st_size > 300 for path in folder.rglob("rounds.csv"))),
}


@pytest.mark.usefixtures("ready_store")
@pytest.mark.parametrize("moment", some(MOMENTS, MOMENTS.keys() - {"in rounds"}))
def test_after_a_sigkill_nothing_stays_running(fedsweep, moment):
    """The whole group is killed; nothing of it is left, and MLflow says so within seconds."""
    arguments, reached = MOMENTS[moment]
    command = [sys.executable, "-m", "fedsweep", *arguments, "checkpoint_every=3"]
    running = subprocess.Popen(command, cwd=fedsweep.folder, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not reached(fedsweep.folder / "multirun_outputs"):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        if moment == "a single run":
            time.sleep(0.2)
        left = psutil.Process(running.pid).children(recursive=True)
        assert any("close.py" in word for process in left for word in process.cmdline())
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not psutil.wait_procs(left, timeout=90)[1]
    found = statuses(fedsweep.folder)  # runs that had ended before stay as they are
    assert "FAILED" in found and set(found) <= {"FAILED", "FINISHED"}


# A worker that dies, once, when its run's result is on disk and MLflow has not heard the end.
STRUCK = """
import os, pathlib, signal
from fedsweep.models.keras import perceptron
from fedsweep.tracking.mlflow_tracker import MlflowTracker

finish = MlflowTracker.finish

def strike(self, status):
    if not os.path.exists("struck"):
        pathlib.Path("struck").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    finish(self, status)

MlflowTracker.finish = strike
"""


@pytest.mark.usefixtures("ready_store")
@pytest.mark.parametrize("interrupted", some([False, True], {False}))
def test_a_worker_that_dies_between_result_and_tracker_leaves_its_run_as_the_folder_says(fedsweep, interrupted):
    (fedsweep.folder / "struck.py").write_text(STRUCK)
    command = [sys.executable, "-m", "fedsweep", "-m", f"rounds={2000 if interrupted else 2}", "clients_per_round=2",
               "model=keras", "model.maker=struck:perceptron", "encoder.bits=2,4", "encoder.threshold=100",
               "sweep.max_workers=1", "hydra.sweep.dir=out"]  # fmt: skip
    running = subprocess.Popen(command, cwd=fedsweep.folder, stderr=subprocess.PIPE, text=True)
    if interrupted:
        rounds, deadline = fedsweep.folder / "out" / "0" / "rounds.csv", time.monotonic() + 300
        while not (rounds.exists() and rounds.stat().st_size > 1000):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=300)
    assert (fedsweep.folder / "struck").exists()
    assert running.returncode == (130 if interrupted else 0), said
    ends = ["KILLED"] * 2 if interrupted else ["FINISHED"] * 3  # of the sweep's run and of those of its trials
    assert statuses(fedsweep.folder) == ends
    assert "fedsweep: a tracker was not told: trial 0 " in said


def test_the_watcher_is_light_and_ends_with_what_it_watches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(psutil.Process().children())
    with pytest.raises(BrokenPipeError, match="the sweep's own"), close.watched(schema.Tracker(mlflow=True)):
        time.sleep(1)
        (watcher,) = set(psutil.Process().children()) - before
        assert watcher.memory_full_info().uss < 12e6
        assert os.getsid(watcher.pid) != os.getsid(0)
        inherited = subprocess.run(
            [sys.executable, "-c", "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in range(3, 40)"
             " if os.path.exists(f'/proc/self/fd/{n}')])"], capture_output=True, text=True, close_fds=False,
        )  # fmt: skip
        assert str(Path(f"/proc/{watcher.pid}/fd/0").readlink()) not in inherited.stdout
        raise BrokenPipeError("the sweep's own")
    assert set(psutil.Process().children()) == before
    assert not list(tmp_path.iterdir())  # it has not looked at any store
    with close.watched(schema.Tracker(csv=True)):
        assert set(psutil.Process().children()) == before
