"""Sweeps on disk and in a real MLflow store."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml

from fedsweep import job, schema, sweep, tracking, trial
from fedsweep.errors import UserError

FAST = ["rounds=2", "evaluate_every=1", "model=2nn", "clients_per_round=3", "encoder.threshold=1000"]


def rows(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "trials.csv").open()))


def store(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{folder}/multirun_outputs/mlflow.db")


def test_a_sweep_leaves_the_files_of_the_contract_and_its_runs_in_mlflow(fedsweep):
    done = fedsweep("-m", *FAST, "encoder.bits=2,4", "encoder=uniform,hadamard", "hydra.sweep.dir=out")
    assert done.returncode == 0, done.stderr
    folder = fedsweep.folder / "out"
    assert sorted(p.name for p in folder.iterdir()) == ["0", "1", "2", "3", "multirun.yaml", "sweep.yaml", "trials.csv"]

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


@pytest.fixture
def two_trials(config, tmp_path, monkeypatch):
    """`two_trials(run)`: a sweep over two points in which `run(config, folder, name, parent)` stands for training."""
    monkeypatch.chdir(tmp_path)

    def go(run):
        monkeypatch.setattr(trial, "run", run)
        points = [["encoder.bits=2", "rounds=7"], ["encoder.bits=4", "rounds=7"]]
        configs = [config(*point) for point in points]
        monkeypatch.setattr(schema, "check", lambda checked: checked)
        with sweep.on_record("out", ["encoder.bits"], points, configs):
            for number, checked in enumerate(configs):
                job.run_trial(checked, number, f"out/{number}", "out")

    go.folder = tmp_path / "out"
    return go


def finished(accuracy, bits, folder):
    folder.mkdir(parents=True)
    result = {"status": "complete", "test_accuracy": accuracy, "uplink_bits": bits, "downlink_bits": 0}
    result |= {"total_bits": bits, "uplink_ratio": 1.0, "downlink_ratio": 1.0}
    (folder / "result.json").write_text(json.dumps(result))
    return result


def test_a_sweep_in_which_every_trial_diverges_fails(two_trials):
    def run(config, folder, name, parent):
        finished(None, 10, folder)
        result = {"status": "diverged", "error": "round 1: no finite number", "total_bits": 10}
        (folder / "result.json").write_text(json.dumps(result))
        return result

    with pytest.raises(UserError, match="no trial completed; trial 0: diverged, round 1"):
        two_trials(run)
    assert parent_status(two_trials.folder) == "FAILED"


def parent_status(folder):
    record = yaml.safe_load((folder / "sweep.yaml").read_text())
    return store(folder.parent).get_run(record["mlflow_run_id"]).info.status


def test_a_failed_trial_is_recorded_the_sweep_goes_on_and_fails_at_the_end(two_trials):
    def run(config, folder, name, parent):
        if config.encoder.bits == 2:
            raise RuntimeError("no luck\nat all")
        return finished(0.5, 10, folder)

    with pytest.raises(UserError, match="1 of 2 trials failed; trial 0: RuntimeError: no luck"):
        two_trials(run)
    first, second = rows(two_trials.folder)
    assert (first["status"], first["error"], first["on_front"]) == ("failed", "RuntimeError: no luck", "False")
    assert (second["status"], second["on_front"]) == ("complete", "True")
    assert "no luck" in (two_trials.folder / "0" / "error.txt").read_text()
    assert parent_status(two_trials.folder) == "FAILED"


def test_trials_csv_holds_what_has_begun_when_ctrl_c_comes(two_trials):
    def run(config, folder, name, parent):
        if config.encoder.bits == 4:
            raise KeyboardInterrupt
        return finished(0.5, 10, folder)

    with pytest.raises(KeyboardInterrupt):
        two_trials(run)
    assert [row["status"] for row in rows(two_trials.folder)] == ["complete"]
    assert parent_status(two_trials.folder) == "KILLED"


def test_the_front_of_trials_csv_leaves_out_what_is_dominated_and_what_did_not_finish(tmp_path):
    results = [(0.9, 100, "complete"), (0.8, 100, "complete"), (0.7, 10, "complete"), (0.99, 1, "diverged")]
    record = sweep.Record(
        space={"seed": list("0123")}, points=[{"seed": str(k)} for k in range(5)], objectives={}, fingerprint="",
        mlflow_run_id=None,
    )  # fmt: skip
    for number, (accuracy, bits, status) in enumerate(results):
        folder = tmp_path / str(number)
        folder.mkdir()
        content = {"status": status, "test_accuracy": accuracy, "total_bits": bits}
        (folder / "result.json").write_text(json.dumps(content))
    sweep.write_trials(tmp_path, record)
    assert [row["on_front"] for row in rows(tmp_path)] == ["True", "False", "True", "False"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # written by rename, nothing left


def test_a_run_that_fails_says_failed_in_its_folder_and_in_mlflow(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def broken(*_):
        raise ArithmeticError("out of luck")

    monkeypatch.setattr(trial, "_train", broken)
    with pytest.raises(ArithmeticError):
        trial.run(config(*FAST), Path("out"), "run")
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
    result = trial.run(config(*FAST), Path("out"), "run")
    assert result["status"] == "complete"
    assert len(Path("out/rounds.csv").read_text().splitlines()) == 3
    assert "fedsweep: MLflow: 7 metrics were not delivered" in capfd.readouterr().err


def test_a_sweep_goes_on_without_its_tracker_when_that_fails_between_trials(config, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def start(*_):
        raise UserError("tracker.uri=http://127.0.0.1:9: cannot be used")

    monkeypatch.setattr(tracking, "start", start)
    result = trial.run(config(*FAST), Path("in_a_sweep"), "trial 1", parent="0123")
    assert result["status"] == "complete" and result["mlflow_run_id"] is None
    assert "trial 1: runs without the tracker: tracker.uri" in capfd.readouterr().out
    with pytest.raises(UserError):
        trial.run(config(*FAST), Path("alone"), "run")


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
    monkeypatch.setattr("fedsweep.tracking.start", lambda *_: (_ for _ in ()).throw(UserError("stop here")))
    with pytest.raises(UserError, match="stop here"):
        trial.run(config("tracker.uri=http://me:secret@127.0.0.1:9"), Path("out"), "run")
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
