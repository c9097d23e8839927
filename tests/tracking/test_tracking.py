"""One real sweep with two trackers at once: what they show of it, to programs and, in a browser, to a person."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import psutil
import pytest
import tensorflow as tf
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedsweep import tracking
from fedsweep.pareto import analysis, load, tables
from fedsweep.tracking import mlflow_store
from fedsweep.tracking.run_folder import RoundRow
from fedsweep.trial import Place

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def seen(tracked):
    """(what the sweep printed, its folder, a client of its store, the parent run, its children by trial)"""
    client = mlflow.MlflowClient(f"sqlite:///{tracked.parent}/mlflow.db")
    parent = client.get_run(yaml.safe_load((tracked / "sweep.yaml").read_text())["mlflow_run_id"])
    found = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    printed = (tracked.parents[1] / "printed").read_text()
    return printed, tracked, client, parent, {int(run.data.tags["trial"]): run for run in found}


def rows(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "trials.csv").open()))


def test_the_parent_says_what_was_swept_and_shows_the_front(seen):
    printed, folder, client, parent, _ = seen
    tags = parent.data.tags
    assert (tags["sweep"], tags["dataset"], tags["status"]) == ("seen", "digits", "complete")
    assert tags["encoder"] == "uniform, identity" and len(tags["git_commit"]) >= 40
    note = tags["mlflow.note.content"]
    assert "python -m fedsweep -m rounds=2" in note and "| `encoder.bits` | 2, 4 |" in note and "Pareto front" in note
    attached = {item.path for item in client.list_artifacts(parent.info.run_id, "figures")}
    assert {"figures/pareto.png", "figures/pareto.pdf", "figures/pareto.csv"} <= attached
    assert (folder / "figures" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "Pareto front" in printed and "on the front" in printed


def test_children_say_which_trial_and_data_they_are_and_whether_they_are_on_the_front(seen, tmp_path):
    _, folder, client, _, children = seen
    table = {int(row["trial"]): row for row in rows(folder)}
    assert set(children) == {0, 1, 2} and table[3]["status"] == "duplicate"  # identity is the same at any width
    for trial, run in children.items():
        tags = run.data.tags
        assert tags["on_front"] == table[trial]["on_front"].lower() and tags["status"] == "complete"
        assert json.loads(tags["point"]) == {key: table[trial][key] for key in ("encoder", "encoder.bits")}
        (data,) = run.inputs.dataset_inputs
        environment = json.loads((folder / str(trial) / "environment.json").read_text())
        assert data.dataset.name == "digits" and environment["data"]["sha256"].startswith(data.dataset.digest)
        assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"config.yaml", "plan.json"}
        plan = json.loads(Path(client.download_artifacts(run.info.run_id, "plan.json", tmp_path)).read_text())
        assert plan == json.loads((folder / str(trial) / "result.json").read_text())["plan"]
        metrics = run.data.metrics
        for way in ("uplink", "downlink", "total"):
            assert 10 ** metrics[f"bits_log10/{way}"] == pytest.approx(metrics[f"bits/{way}"])
        assert metrics["validation/accuracy"] == float(
            list(csv.DictReader((folder / str(trial) / "rounds.csv").open()))[-1]["validation_accuracy"]
        )


def test_folder_and_store_give_the_same_numbers(seen):
    _, folder, client, parent, _ = seen
    question = analysis.Question(x="uplink", budgets=(10**6,), targets=(0.1,))
    stores = [load.from_folder(folder), load.load(parent.info.run_id, client.tracking_uri)]
    answers = [analysis.analyse([sweep], question) for sweep in stores]
    assert tables.csv(answers[0]) == tables.csv(answers[1])
    assert tables.summary(answers[0])["tasks"] == tables.summary(answers[1])["tasks"]
    assert stores[0].plan(0) == stores[1].plan(0)
    assert sorted(stores[0].run_ids) == sorted(stores[1].run_ids)
    assert answers[0].select == "validation_accuracy"


def test_tensorboard_has_the_rounds_too(seen):
    _, folder, *_ = seen
    rounds = list(csv.DictReader((folder / "1" / "rounds.csv").open()))
    events = EventAccumulator(str(folder / "1" / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    for name, column in {
        "bits/uplink": "uplink_bits",
        "test/accuracy": "test_accuracy",
        "train/loss": "train_loss",
    }.items():
        logged = [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(name)]
        assert logged == [(int(row["round"]), pytest.approx(float(row[column]), rel=1e-6)) for row in rounds]


@pytest.mark.usefixtures("ready_store")
def test_runs_of_processes_that_were_killed_are_closed_and_no_others(config, tmp_path, monkeypatch, about):
    monkeypatch.chdir(tmp_path)
    own = tracking.start(config(), about)
    client, experiment = mlflow_store.connect(config().tracker)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, boot, space = mlflow_store._here()
    left = {
        "killed": [host, boot, space, ended.pid, "1"],
        "reused": [host, boot, space, os.getpid(), "1"],  # another process has the number now
        "before the power cut": [host, "another boot", space, os.getpid(), "1"],
        "another machine's": ["another host", boot, space, ended.pid, "1"],
        "another container's": [host, boot, "pid:[1]", ended.pid, "1"],
        "somebody else's": "training",
    }
    tag = mlflow_store.PROCESS
    runs = {
        name: client.create_run(experiment, run_name=name, tags={tag: json.dumps(process)}).info.run_id
        for name, process in left.items()
    }
    tracking.check(config())
    closed = {name for name, run_id in runs.items() if client.get_run(run_id).info.status == "FAILED"}
    assert closed == {"killed", "reused", "before the power cut"}
    assert client.get_run(own.run_id).info.status == "RUNNING"
    assert client.get_run(runs["killed"]).data.tags["status"] == "failed"
    own.finish("complete")


@pytest.mark.usefixtures("ready_store")
def test_an_artifact_store_that_cannot_be_written_costs_no_metrics(config, tmp_path, monkeypatch, about, capfd):
    monkeypatch.chdir(tmp_path)

    def refuse(*_, **__):
        raise RuntimeError("no credentials")  # what clients of remote stores raise is no MLflow error

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", refuse)
    tracker = tracking.start(config(), about)
    tracker.log_round(RoundRow(1, 1.0, 0.5, 0.5, 0.25, 10, 10, 20, 0.1))
    tracker.finish("complete")
    client, _ = mlflow_store.connect(config().tracker)
    assert client.get_run(tracker.run_id).data.metrics["bits/total"] == 20
    assert "no credentials" in capfd.readouterr().err


@pytest.mark.usefixtures("ready_store")
def test_a_run_that_was_killed_before_its_folder_knew_its_id_goes_on_as_the_same(config, tmp_path, monkeypatch, about):
    """What was missing from the store is there then, and runs of other trials and replicates stay their own."""
    monkeypatch.chdir(tmp_path)

    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    client, experiment = mlflow_store.connect(config().tracker)
    parent = client.create_run(experiment).info.run_id
    first = dataclasses.replace(about, sweep=Place("sweep", parent, 1, 0, {"encoder.bits": "2"}))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(mlflow.MlflowClient, "log_batch", kill)
        tracking.start(config(), first)
    (left,) = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    assert not left.data.params

    others = [dataclasses.replace(first.sweep, trial=2), dataclasses.replace(first.sweep, replicate=1)]
    trackers = [tracking.start(config(), dataclasses.replace(about, sweep=place)) for place in (*others, first.sweep)]
    assert trackers[-1].run_id == left.info.run_id and len({tracker.run_id for tracker in trackers}) == 3
    assert client.get_run(left.info.run_id).data.params["encoder.bits"] == "8"
    for tracker in trackers:
        tracker.finish("complete")


@pytest.mark.usefixtures("ready_store")
def test_two_runs_that_add_the_same_data_set_at_once_both_have_it(config, tmp_path, monkeypatch, about, capfd):
    """MLflow's own words for the slower one: it had looked before the other had added it."""
    monkeypatch.chdir(tmp_path)
    log_inputs, calls = mlflow.MlflowClient.log_inputs, []

    def slower(client, *arguments, **settings):
        calls.append(arguments)
        if len(calls) == 1:
            raise mlflow.MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id")
        log_inputs(client, *arguments, **settings)

    monkeypatch.setattr(mlflow.MlflowClient, "log_inputs", slower)
    tracker = tracking.start(config("encoder=identity"), about)
    tracker.finish("complete")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/multirun_outputs/mlflow.db")
    assert len(client.get_run(tracker.run_id).inputs.dataset_inputs) == 1
    assert "config.yaml" in [artifact.path for artifact in client.list_artifacts(tracker.run_id)]
    assert capfd.readouterr().err == ""


def test_a_tracker_that_fails_stops_and_the_others_go_on(about, capfd):
    class Broken(tracking.Tracker):
        def log_round(self, row):
            raise OSError("disk full")

        flush = finish = log_round

    class Counting(tracking.Tracker):
        rounds = 0

        def log_round(self, row):
            self.rounds += 1

        def flush(self):
            pass

        def finish(self, status):
            self.status = status

    other = Counting()
    both = tracking.Trackers([Broken(), other])
    for number in (1, 2):
        both.log_round(RoundRow(number, 1.0, 0.5, 0.5, 0.25, 10, 10, 20, 0.1))
    both.finish("complete")
    assert (other.rounds, other.status) == (2, "complete")
    assert capfd.readouterr().err.count("disk full") == 1


@pytest.mark.usefixtures("ready_store")
def test_system_metrics_are_optional(config, tmp_path, monkeypatch, about):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    logged = []
    for wish in ("false", "true"):
        tracker = tracking.start(config(f"tracker.system_metrics={wish}"), about)
        time.sleep(1)
        tracker.finish("complete")
        client, _ = mlflow_store.connect(config().tracker)
        logged.append(any(name.startswith("system/") for name in client.get_run(tracker.run_id).data.metrics))
    assert logged == [False, True]


@pytest.fixture
def pages(seen):
    """The address of `make ui` on the sweep's store."""
    _, folder, *_ = seen
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fedsweep.tracking.ui", "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=folder.parents[1], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout.readline().startswith("MLflow: ")  # which store
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        everything = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for process in everything:
            process.terminate()
        psutil.wait_procs(everything, timeout=10)
        server.wait()


def test_a_person_sees_the_sweep_opens_a_chart_and_finds_the_figure(seen, pages):
    """In a real browser. `.ci/run` installs one where it may."""
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser here ({', '.join(_BROWSERS)}): apt-get install chromium")
    from playwright.sync_api import sync_playwright

    _, _, _, parent, _ = seen
    experiment = f"{pages}/#/experiments/{parent.info.experiment_id}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(60_000)

        page.goto(f"{experiment}/runs?compareRunsMode=CHART")
        row = page.get_by_role("link", name="seen", exact=True)
        row.wait_for()
        assert page.get_by_text("trial 1").count() == 0
        row.locator("xpath=ancestor::*[@role='gridcell'][1]").get_by_role("button").first.click()  # its children
        page.get_by_role("link", name="trial 1 encoder=uniform encoder.bits=4").wait_for()
        page.get_by_text("bits_log10/total").first.wait_for()
        page.locator(".js-plotly-plot").first.wait_for()

        page.goto(f"{experiment}/runs/{parent.info.run_id}")
        page.get_by_text("python -m fedsweep -m rounds=2").first.wait_for()  # the description
        page.get_by_role("link", name="trial 0 encoder=uniform encoder.bits=2").first.wait_for()

        page.goto(f"{experiment}/runs/{parent.info.run_id}/artifacts/figures/pareto.png")
        page.get_by_text("figures/pareto.png").first.wait_for()
        page.wait_for_function("[...document.images].some(i => i.complete && i.naturalWidth >= 1500)")  # 8 inches
        browser.close()
