"""Sweeps on disk and in a real MLflow store."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import optuna
import psutil
import pytest
import yaml

from fedsweep import job, tracking, trial
from fedsweep.errors import UserError
from fedsweep.progress import RunProgress
from fedsweep.sweep import study as studies
from fedsweep.sweep.engine import Run
from fedsweep.sweep.record import Record
from fedsweep.tracking import run_folder

BRIEF = ["rounds=2", "evaluate_every=1", "clients_per_round=3", "encoder.threshold=100"]
FAST = [*BRIEF, "model=logistic_regression"]
DEEP = [*BRIEF, "model=2nn"]  # one that can diverge


def alone(config, folder: Path) -> dict:
    return trial.run(config, folder, "run", RunProgress("run", config.rounds))


def rows(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "trials.csv").open()))


def store(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{folder}/multirun_outputs/mlflow.db")


@pytest.mark.usefixtures("ready_store")
def test_a_sweep_leaves_the_files_of_the_contract_and_its_runs_in_mlflow(fedsweep):
    done = fedsweep("-m", *FAST, "encoder.bits=2,4", "encoder=uniform,hadamard", "hydra.sweep.dir=out")
    assert done.returncode == 0, done.stderr
    folder = fedsweep.folder / "out"
    names = ["0", "1", "2", "3", "figures", "multirun.yaml", "study.journal", "sweep.yaml", "trials.csv"]
    assert sorted(p.name for p in folder.iterdir()) == names

    table = rows(folder)
    assert ",".join(table[0]) == (
        "trial,replicate,status,encoder.bits,encoder,test_accuracy,uplink_bits,downlink_bits,total_bits,on_front,"
        "mlflow_run_id,error"
    )
    assert [(row["encoder.bits"], row["encoder"]) for row in table] == [
        ("2", "uniform"), ("2", "hadamard"), ("4", "uniform"), ("4", "hadamard"),
    ]  # fmt: skip
    assert {row["status"] for row in table} == {"complete"} and any(row["on_front"] == "True" for row in table)
    for row in table:
        result = json.loads((folder / row["trial"] / "result.json").read_text())
        assert float(row["test_accuracy"]) == result["test_accuracy"] and int(row["total_bits"]) == result["total_bits"]

    record = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert record["space"] == {"encoder.bits": ["2", "4"], "encoder": ["uniform", "hadamard"]}
    assert record["objectives"] == {"test_accuracy": "maximize", "total_bits": "minimize"}

    client = store(fedsweep.folder)
    parent = client.get_run(record["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'", order_by=["start_time"]
    )
    assert [child.info.run_id for child in children] == [row["mlflow_run_id"] for row in table]
    for number, child in enumerate(children):
        assert child.info.status == "FINISHED"
        assert child.data.params["encoder.bits"] == table[number]["encoder.bits"]
        assert child.data.params["encoder.name"] == table[number]["encoder"]
        logged = list(csv.DictReader((folder / str(number) / "rounds.csv").open()))
        for metric, column in {
            "train/loss": "train_loss", "train/accuracy": "train_accuracy", "test/loss": "test_loss",
            "test/accuracy": "test_accuracy", "bits/uplink": "uplink_bits", "bits/downlink": "downlink_bits",
            "bits/total": "total_bits",
        }.items():  # fmt: skip
            history = client.get_metric_history(child.info.run_id, metric)
            assert [(m.step, m.value) for m in history] == [(int(r["round"]), float(r[column])) for r in logged]
    assert "hadamard" in done.stdout and "float32/uplink" in done.stdout  # the table at the end


@pytest.mark.parametrize("taken", ["sweep.yaml", "1/result.json", "trials.csv", "multirun.yaml"])
def test_a_sweep_never_writes_over_what_is_there(fedsweep, taken):
    path = fedsweep.folder / "out" / taken
    path.parent.mkdir(parents=True)
    path.write_text("kept")
    done = fedsweep("-m", *FAST, "encoder.bits=2,4", "hydra.sweep.dir=out", "tracker=csv")
    assert done.returncode == 1 and "is there already" in done.stderr
    assert [p.read_text() for p in (fedsweep.folder / "out").rglob("*.*")] == ["kept"]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("tracker=csv,mlflow", "tracker: cannot be swept"),
        ("runtime.threads=1,2", "runtime.threads: cannot be swept"),
        ("hydra.sweep.subdir=x${hydra.job.num}", "hydra.sweep.subdir"),
        ("hydra.job.chdir=true", "hydra.job.chdir"),
    ],
)
def test_what_a_sweep_cannot_vary_is_refused_before_anything_is_written(fedsweep, argument, says):
    done = fedsweep("-m", *FAST, "seed=1,2", argument)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and says in done.stderr
    assert not list(fedsweep.folder.rglob("sweep.yaml"))


def test_the_folder_names_trials_by_their_number(fedsweep):
    """Sweeping without a swept key is one trial; its keys come from the command line."""
    done = fedsweep("-m", *FAST, "tracker=csv", "hydra.sweep.dir=out")
    assert done.returncode == 0, done.stderr
    assert [row["trial"] for row in rows(fedsweep.folder / "out")] == ["0"]


@pytest.mark.usefixtures("ready_store")
def test_a_run_that_fails_says_failed_in_its_folder_and_in_mlflow(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def broken(*_):
        raise ArithmeticError("out of luck")

    monkeypatch.setattr(trial, "_train", broken)
    with pytest.raises(ArithmeticError):
        alone(config(*FAST), Path("out"))
    result = json.loads(Path("out/result.json").read_text())
    assert result["status"] == "failed" and result["error"] == "ArithmeticError: out of luck"
    run = store(tmp_path).get_run(result["mlflow_run_id"])
    assert run.info.status == "FAILED" and run.data.tags["status"] == "failed"


@pytest.mark.usefixtures("ready_store")
def test_a_tracker_that_fails_in_the_middle_costs_no_round(config, tmp_path, monkeypatch, capfd):
    """MLflow's database is taken away after the first round and never comes back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedsweep.tracking.mlflow_tracker._FLUSH_SECONDS", 0)
    real = mlflow.MlflowClient.log_batch

    def log_batch(self, run_id, metrics=(), params=()):
        if any(metric.step > 1 for metric in metrics):
            raise mlflow.MlflowException("database is locked")
        return real(self, run_id, metrics=metrics, params=params)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", log_batch)
    monkeypatch.setattr(
        mlflow.MlflowClient, "set_terminated", lambda *_: (_ for _ in ()).throw(mlflow.MlflowException("locked"))
    )
    result = alone(config(*FAST), Path("out"))
    assert result["status"] == "complete"
    assert len(Path("out/rounds.csv").read_text().splitlines()) == 3
    assert "fedsweep: MLflow: metrics of 1 rounds were not delivered" in capfd.readouterr().err


def test_a_sweep_goes_on_without_its_tracker_when_that_fails_between_trials(config, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def start(*_, **__):
        raise UserError("tracker.uri=http://127.0.0.1:9: cannot be used")

    monkeypatch.setattr(tracking, "start", start)
    result = trial.run(
        config(*FAST),
        Path("in_a_sweep"),
        "trial 1",
        RunProgress("trial 1", 2),
        trial.Place("a sweep", "0123", 1, 0, {}),
    )
    assert result["status"] == "complete" and result["mlflow_run_id"] is None
    assert "trial 1: runs without the tracker: tracker.uri" in capfd.readouterr().out
    with pytest.raises(UserError):
        alone(config(*FAST), Path("alone"))


@pytest.mark.usefixtures("ready_store")
def test_a_store_that_cannot_be_written_is_one_line(config, tmp_path, monkeypatch, about):
    monkeypatch.chdir(tmp_path)
    tracking.check(config())  # makes the database
    uri = f"sqlite:///file:{tmp_path}/multirun_outputs/mlflow.db?mode=ro&uri=true"
    with pytest.raises(UserError, match="cannot be used"):
        tracking.start(config(f"tracker.uri='{uri}'"), about)


def test_passwords_of_tracking_servers_are_written_nowhere(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fedsweep", "tracker.uri=http://me:secret@127.0.0.1:9"])
    with pytest.raises(UserError) as refused:
        tracking.check(config("tracker.uri=http://me:secret@127.0.0.1:9"))
    assert "secret" not in str(refused.value) and "127.0.0.1:9" in str(refused.value)
    monkeypatch.setattr("fedsweep.tracking.check", lambda _: None)
    monkeypatch.setattr("fedsweep.tracking.start", lambda *_, **__: (_ for _ in ()).throw(UserError("stop here")))
    with pytest.raises(UserError, match="stop here"):
        alone(config("tracker.uri=http://me:secret@127.0.0.1:9"), Path("out"))
    written = "".join(path.read_text() for path in Path("out").iterdir())
    assert "secret" not in written and "http://***@127.0.0.1:9" in written
    assert json.loads(Path("out/result.json").read_text())["status"] == "failed"


@pytest.mark.usefixtures("ready_store")
def test_metrics_are_sent_in_batches_that_mlflow_accepts_and_none_is_lost(config, tmp_path, monkeypatch, about):
    from fedsweep.tracking.run_folder import RoundRow

    monkeypatch.chdir(tmp_path)
    tracker = tracking.start(config(), about)
    for number in range(1, 301):  # 3000 metrics
        tracker.log_round(RoundRow(number, 1.0, np.nan, 0.5, 0.25, number, number, 2 * number, 0.1))
    tracker.finish("complete")
    history = store(tmp_path).get_metric_history(tracker.run_id, "bits/total")
    assert [m.value for m in history] == [2 * number for number in range(1, 301)]


@pytest.mark.parametrize(
    "ways",
    [
        [["sweep.max_workers=2"]],
        pytest.param(
            [["hydra/launcher=basic"], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]],
            marks=pytest.mark.exhaustive,
        ),
    ],
    ids=["two workers", "hydra's launchers"],
)
def test_other_workers_give_the_trials_that_one_gives(fedsweep, ways):
    search = ["encoder.bits=int(interval(1,8))", "sweep.n_trials=3", "sweep.in_flight=2", "replicates=2"]
    tables = []
    for number, way in enumerate([["sweep.max_workers=1", "sweep.trials_per_worker=4"], *ways]):
        place = ["tracker=csv", f"hydra.sweep.dir=out{number}"]
        done = fedsweep("-m", *FAST, *search, *way, *place, "sweep.sampler.n_startup_trials=1")
        assert done.returncode == 0, done.stderr
        tables.append(rows(fedsweep.folder / f"out{number}"))
    assert len(tables[0]) == 6 and all(table == tables[0] for table in tables)


def test_workers_live_long_and_are_replaced_after_so_many_runs(fedsweep):
    def processes(*arguments):
        command = [sys.executable, "-m", "fedsweep", "-m", *FAST, "tracker=csv", "seed=1,2,3", *arguments]
        running = subprocess.Popen(command, cwd=fedsweep.folder, stdout=subprocess.DEVNULL)
        seen = set()
        while running.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(running.pid).children()  # not theirs: a fork looks like its worker at first
                seen |= {child.pid for child in children if "fedsweep.sweep.worker" in child.cmdline()}
            time.sleep(0.05)
        assert running.returncode == 0
        assert not any(map(psutil.pid_exists, seen))  # nothing is left running
        return len(seen)

    assert processes("sweep.max_workers=1", "sweep.trials_per_worker=2") == 2  # for three runs


@pytest.mark.usefixtures("ready_store")
def test_a_diverging_trial_is_one_bad_trial_and_a_dominated_one_is_pruned(fedsweep):
    done = fedsweep(
        "-m", *DEEP, "rounds=8", "optimizer.client_lr=0.5,1e30,1e-9", "sweep/pruner=dominance",
        "sweep.pruner.min_rounds=3", "sweep.in_flight=1", "hydra.sweep.dir=out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    good, diverged, pruned = rows(fedsweep.folder / "out")
    assert (good["status"], diverged["status"], pruned["status"]) == ("complete", "diverged", "pruned")
    assert "holds a NaN or an infinity" in diverged["error"] and "round 3: accuracy" in pruned["error"]
    kept = list(csv.DictReader((fedsweep.folder / "out" / "2" / "rounds.csv").open()))
    assert len(kept) == 3 and kept[-1]["test_accuracy"] == pruned["test_accuracy"]
    assert pruned["on_front"] == "False" and int(pruned["total_bits"]) == int(kept[-1]["total_bits"])
    client = store(fedsweep.folder)
    assert [client.get_run(row["mlflow_run_id"]).data.tags["status"] for row in (good, diverged, pruned)] == [
        "complete", "diverged", "pruned",
    ]  # fmt: skip
    plain = optuna.load_study(study_name="out", storage=studies.journal(fedsweep.folder / "out" / studies.JOURNAL))
    assert [trial.state.name for trial in plain.trials] == ["COMPLETE", "FAIL", "PRUNED"]
    assert plain.trials[0].values == [float(good["test_accuracy"]), float(good["total_bits"])]


@pytest.mark.usefixtures("ready_store")
def test_a_sweep_in_which_no_trial_completes_fails_loudly(fedsweep):
    wrong = ["optimizer.client_lr=1e30", "seed=1,2", "sweep.max_failures=9", "hydra.sweep.dir=out"]
    done = fedsweep("-m", *DEEP, *wrong)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("fedsweep: no trial completed; trial 0: diverged, round")
    parent = yaml.safe_load((fedsweep.folder / "out" / "sweep.yaml").read_text())["mlflow_run_id"]
    assert store(fedsweep.folder).get_run(parent).info.status == "FAILED"


def test_an_exception_in_a_run_is_recorded_and_returned(config, tmp_path, monkeypatch):
    """What `job` makes of it; the sweep then goes on (see the killed worker)."""
    monkeypatch.chdir(tmp_path)

    def broken(*_):
        raise ArithmeticError("no luck\nat all")

    checked = config(*FAST, "tracker=csv")
    record = Record({}, [{}], 1, 1, {}, {}, {"seed": checked.seed}, {}, None)
    record.write(tmp_path)
    monkeypatch.setattr(trial, "_train", broken)
    run = Run(0, 0, "trial 0", checked, tmp_path / "0", tmp_path, {})
    result = job.run_trial(run, RunProgress("trial 0", 2))
    assert (result["status"], result["error"]) == ("failed", "ArithmeticError: no luck at all")
    assert run_folder.read_result(tmp_path / "0") == result
    assert "no luck" in (tmp_path / "0" / "error.txt").read_text()


def test_an_interrupt_that_strikes_inside_a_lock_is_an_interrupt(config, tmp_path, monkeypatch):
    """Python then raises "cannot release un-acquired lock" in its place."""

    def struck(*_):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("cannot release un-acquired lock")

    monkeypatch.setattr(trial.cohort, "sample", struck)
    with pytest.raises(KeyboardInterrupt):
        alone(config(*FAST, "tracker=csv"), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"


def test_a_dry_run_shows_trials_bits_and_duplicates_and_writes_nothing(fedsweep, data_folder):
    done = fedsweep("-m", "model=cnn", "dataset=mnist_by_writer", "encoder.threshold=10000,20000", "encoder.bits=8",
                    "downlink=same", "rounds=1", "sweep.dry_run=true", "tracker=csv",
                    FEDSWEEP_DATA=str(data_folder))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("146.46 Mibit") == 4  # the tutorial's, both directions, both trials
    assert "duplicate of trial 0" in done.stdout and "1 of 2 trials would be trained" in done.stdout
    searched = fedsweep("-m", *FAST, "encoder.bits=int(interval(1,8))", "sweep.n_trials=9", "sweep.dry_run=true",
                        "tracker=csv")  # fmt: skip
    assert "5 more would be drawn" in searched.stdout
    assert not list(fedsweep.folder.iterdir())


def test_parameters_in_a_file_are_swept_and_the_command_line_counts_more(fedsweep):
    (fedsweep.folder / "mine" / "study").mkdir(parents=True)
    (fedsweep.folder / "mine" / "study" / "three.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      encoder.bits: 2,4,8\n      seed: 1,2\n"
    )
    done = fedsweep(
        "-m",
        "+study=three",
        *FAST,
        "seed=3",
        "sweep.dry_run=true",
        f"hydra.searchpath=[file://{fedsweep.folder}/mine]",
        "tracker=csv",
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 3 trials would be trained" in done.stdout


def test_a_space_without_end_needs_a_number_of_trials(fedsweep):
    for arguments, says in {
        ("optimizer.client_lr=interval(0.1,1)",): "sweep.n_trials=null: the space has no end of points",
        ("seed=range(0,5000)",): "sweep.n_trials=null: the space has 5,000 points",
        ("seed=range(0,5000)", "sweep.n_trials=3"): "seed: is no dimension of a search",
        ("optimizer.client_lr=interval(-1,1)", "sweep.n_trials=3"): "optimizer.client_lr=-1.0: must be",
        ("encoder.bits=interval(1,8)", "sweep.n_trials=3"): "encoder.bits",
    }.items():
        done = fedsweep("-m", *FAST, *arguments, "tracker=csv")
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert says in done.stderr
    assert not list(fedsweep.folder.iterdir())


def test_the_sampler_that_needs_pytorch_says_so(fedsweep):
    torch = importlib.util.find_spec("torch")
    done = fedsweep("-m", *FAST, "optimizer.client_lr=interval(0.1,1)", "sweep/sampler=gp", "sweep.n_trials=2",
                    "sweep.sampler.n_startup_trials=1", "sweep.in_flight=1", "tracker=csv")  # fmt: skip
    if torch:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert (
            done.stderr == "fedsweep: sweep/sampler=gp: needs PyTorch; pip install torch, or choose another sampler\n"
        )
