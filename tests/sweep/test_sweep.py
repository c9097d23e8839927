"""Sweeps on disk and in a real MLflow store."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml

from fedsweep import tracking, trial
from fedsweep.errors import UserError
from fedsweep.progress import RunProgress

FAST = ["rounds=2", "evaluate_every=1", "model=2nn", "clients_per_round=3", "encoder.threshold=1000"]


def alone(config, folder: Path) -> dict:
    return trial.run(config, folder, "run", RunProgress("run", config.rounds))


def rows(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "trials.csv").open()))


def store(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{folder}/multirun_outputs/mlflow.db")


def test_a_sweep_leaves_the_files_of_the_contract_and_its_runs_in_mlflow(fedsweep):
    done = fedsweep("-m", *FAST, "encoder.bits=2,4", "encoder=uniform,hadamard", "hydra.sweep.dir=out")
    assert done.returncode == 0, done.stderr
    folder = fedsweep.folder / "out"
    names = ["0", "1", "2", "3", "multirun.yaml", "study.journal", "sweep.yaml", "trials.csv"]
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
    assert run.info.status == "FAILED" and run.data.tags["fedsweep.status"] == "failed"


def test_a_tracker_that_fails_in_the_middle_costs_no_round(config, tmp_path, monkeypatch, capfd):
    """MLflow's database is taken away after the first round and never comes back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedsweep.tracking.mlflow_store._FLUSH_SECONDS", 0)
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
    assert "fedsweep: MLflow: 7 metrics were not delivered" in capfd.readouterr().err


def test_a_sweep_goes_on_without_its_tracker_when_that_fails_between_trials(config, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def start(*_, **__):
        raise UserError("tracker.uri=http://127.0.0.1:9: cannot be used")

    monkeypatch.setattr(tracking, "start", start)
    result = trial.run(
        config(*FAST), Path("in_a_sweep"), "trial 1", RunProgress("trial 1", 2), trial.Place(parent="0123")
    )
    assert result["status"] == "complete" and result["mlflow_run_id"] is None
    assert "trial 1: runs without the tracker: tracker.uri" in capfd.readouterr().out
    with pytest.raises(UserError):
        alone(config(*FAST), Path("alone"))


def test_a_store_that_cannot_be_written_is_one_line(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracking.check(config())  # makes the database
    uri = f"sqlite:///file:{tmp_path}/multirun_outputs/mlflow.db?mode=ro&uri=true"
    with pytest.raises(UserError, match="cannot be used"):
        tracking.start(config(f"tracker.uri='{uri}'"), "run", None)


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


def test_metrics_are_sent_in_batches_that_mlflow_accepts_and_none_is_lost(config, tmp_path, monkeypatch):
    from fedsweep.tracking.run_folder import RoundRow

    monkeypatch.chdir(tmp_path)
    tracker = tracking.start(config(), "run", None)
    for number in range(1, 301):  # 2100 metrics
        tracker.log_round(RoundRow(number, 1.0, np.nan, 0.5, 0.25, number, number, 2 * number, 0.1))
    tracker.finish("complete")
    history = store(tmp_path).get_metric_history(tracker.run_id, "bits/total")
    assert [m.value for m in history] == [2 * number for number in range(1, 301)]
