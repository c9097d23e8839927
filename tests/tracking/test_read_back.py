"""What is read back of a run, from its folder and from MLflow: all of it as it was written, or one line."""

from __future__ import annotations

import os
import sqlite3

import mlflow
import pytest

from fedsweep.errors import DamagedFile, NotWritten, UserError
from fedsweep.pareto import load
from fedsweep.sweep import record, resume
from fedsweep.tracking import mlflow_run, mlflow_store, mlflow_sync
from fedsweep.tracking.base import Place
from fedsweep.tracking.mlflow_tracker import MlflowTracker
from fedsweep.tracking.run_folder import RoundRow, read_config, read_environment

ROUNDS = 4


def row(number: int) -> RoundRow:
    return RoundRow(number, 1.0, 0.5, 0.5, 0.25, 10 * number, 10 * number, 20 * number, 0.1)


@pytest.fixture
def store(tmp_path, migrated_database):
    """(a client of an empty store, its address)"""
    (tmp_path / "own.db").write_bytes(migrated_database.read_bytes())
    uri = f"sqlite:///{tmp_path}/own.db"
    return mlflow.MlflowClient(uri), uri


@pytest.fixture
def parent(store):
    """A sweep's run with one complete trial: (client, address, the run's id, `add(numbers of rounds, params)`)"""
    client, uri = store
    tags = {"sweep": "s", "space": '["encoder.bits"]', "status": "complete"}
    parent = client.create_run("0", tags=tags).info.run_id

    def add(numbers=range(1, ROUNDS + 1), **params: str) -> str:
        place = Place("s", parent, 0, 0, {"encoder.bits": "2"})
        run_id = client.create_run("0", tags={**mlflow_run.place_tags(place), "status": "complete"}).info.run_id
        plan = {"plan.clients": "1", "plan.float32_uplink_bits": "32", "plan.float32_downlink_bits": "32"}
        mlflow_run.log_params(
            client, run_id, {"rounds": str(ROUNDS), "evaluate_every": "1", "seed": "0", **plan, **params}
        )
        for number in numbers:
            mlflow_run.log_rounds(client, run_id, [mlflow_run.round_metrics(row(number), 1)])
        return run_id

    return client, uri, parent, add


def test_a_complete_run_with_all_its_rounds_counts(parent):
    _, uri, run_id, add = parent
    own = add()
    sweep = load.from_mlflow(run_id, uri)
    assert list(sweep.rounds["round"]) == [1, 2, 3, 4] and sweep.left_out == {} and sweep.run_ids == [run_id, own]


@pytest.mark.parametrize("numbers", [(1, 3), (1, 2, 3), (2, 3, 4), (), (1, 2, 3, 4, 5)])
def test_a_complete_run_without_all_its_rounds_is_left_out(parent, numbers):
    """(Before: without the comparison of the steps, rounds 1 and 3 of 4 were a curve.)"""
    _, uri, run_id, add = parent
    add(numbers)
    sweep = load.from_mlflow(run_id, uri)
    assert sweep.left_out == {"not all in MLflow": 1} and not sweep.points and sweep.rounds.empty


@pytest.mark.parametrize("metric", ["bits/uplink", "bits/total", "test/accuracy", "train/loss"])
def test_a_metric_that_lacks_a_round_leaves_its_run_out(parent, metric):
    _, uri, run_id, add = parent
    own = add()
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        database.execute("DELETE FROM metrics WHERE run_uuid=? AND step=2 AND key=?", [own, metric])
    assert load.from_mlflow(run_id, uri).left_out == {"not all in MLflow": 1}


@pytest.mark.parametrize("params", [{"rounds": "many"}, {"evaluate_every": "x"}, {"plan.clients": "few"}])
def test_parameters_that_are_no_numbers_leave_their_run_out(parent, params):
    _, uri, run_id, add = parent
    add(**params)
    assert load.from_mlflow(run_id, uri).left_out == {"not all in MLflow": 1}


def test_two_complete_runs_at_one_place_are_refused(parent):
    _, uri, run_id, add = parent
    add(), add()
    with pytest.raises(UserError, match=r"two complete runs of trial 0, replicate 0 .*fedsweep\.tracking\.sync"):
        load.from_mlflow(run_id, uri)


@pytest.mark.parametrize(
    ("tag", "value"), [("point", '{"a'), ("point", "[]"), ("point", ""), ("trial", "x"), ("space", "3")]
)
def test_a_tag_that_is_not_what_was_written_is_one_line(parent, tag, value):
    client, uri, run_id, add = parent
    client.set_tag(add() if tag != "space" else run_id, tag, value)
    with pytest.raises(UserError, match=rf"{tag}.*fedsweep\.tracking\.sync") as refused:
        load.from_mlflow(run_id, uri)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("tag_fails", [False, True])
def test_a_run_whose_rounds_are_not_in_mlflow_is_not_closed_as_complete_there(store, monkeypatch, tag_fails):
    """Unless it says itself that it lacks some. (Before: it was FINISHED and complete.)"""
    client, _ = store
    tracker = MlflowTracker.__new__(MlflowTracker)
    tracker.run_id = client.create_run("0").info.run_id
    tracker._client, tracker._monitor, tracker.lost, tracker._logged, tracker._flushed = client, None, [], 0, 1e12
    tracker._waiting = []
    tracker.log_round(row(1))

    def away(*_, **__):
        raise ConnectionError("away")

    set_tag = mlflow.MlflowClient.set_tag
    refused = {"undelivered_rounds"} if tag_fails else set()
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", away)
    monkeypatch.setattr(
        mlflow.MlflowClient, "set_tag", lambda self, run, key, value: (away if key in refused else set_tag)(
            self, run, key, value)
    )  # fmt: skip
    tracker.finish("complete")
    run = client.get_run(tracker.run_id)
    assert (run.data.tags["status"] == "complete") == ("undelivered_rounds" in run.data.tags) == (not tag_fails)
    assert tracker.lost == ["metrics of 1 rounds were not delivered"]


@pytest.mark.parametrize("error", [NotWritten(28, "No space left on device", "s/result.json"),
                                   DamagedFile("s/result.json", "cannot be read", "resume")])  # fmt: skip
def test_the_fault_of_a_runs_own_file_is_not_the_trackers(store, config, error):
    """(Before: "tracker.uri=...: cannot be used (No space left); start its server".)"""
    _, uri = store
    contexts = (
        mlflow_store.refusing(config(f"tracker.uri={uri}").tracker),
        mlflow_store.reading(uri, "--tracking-uri", "name another"),
        mlflow_store.forgiving("something is lost"),
    )
    for context in contexts:
        with pytest.raises(type(error)) as raised, context:
            raise error
        assert raised.value is error


WRONG = {
    "config.yaml": ["", "[]", "5", "{}", "a: [", "\0", "seed: 1", "{seed: 1, encoder: 3, dataset: {}, tracker: {}}",
                    "{seed: x, encoder: {}, dataset: {}, tracker: {}}", "[" * 5000],
    "environment.json": ["", "[]", "{", "{}", "null", '{"command": "a", "git_commit": null, "data": {}}',
                         '{"command": ["a"], "git_commit": null, "data": {}}', "[" * 100000],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_a_damaged_file_of_a_run_is_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DamagedFile, match=rf"/{name}: cannot be read \(.*\); delete the run's folder") as raised:
        (read_config if name == "config.yaml" else read_environment)(tmp_path)
    assert "\n" not in str(raised.value)
    (tmp_path / name).unlink()
    with pytest.raises(DamagedFile, match=f"/{name}: is not there"):
        (read_config if name == "config.yaml" else read_environment)(tmp_path)


def test_long_values_are_compared_as_mlflow_keeps_them(store):
    """(Before: every sync deleted the run and made it again.)"""
    client, _ = store
    values = mlflow_run.params({"model": {"sizes": [1] * 5000, "short": 1}}, {})
    run_id = client.create_run("0").info.run_id
    mlflow_run.log_params(client, run_id, values)
    there = client.get_run(run_id).data.params
    assert len(there["model.sizes"]) == 6000 and there == values and not mlflow_sync._differs(there, values)
    tags = mlflow_run.place_tags(Place("s", None, 0, 0, {"key": "x" * 9000}))
    run = client.get_run(client.create_run("0", tags=tags).info.run_id)
    assert not mlflow_sync.set_tags(client, run, tags)


def test_the_latest_sweep_is_one_that_has_begun(tmp_path):
    base = tmp_path / "multirun_outputs"
    for age, (name, text) in enumerate({"empty": "", "new": "a: 1\n", "old": "a: 1\n"}.items()):
        (base / name).mkdir(parents=True)
        (base / name / "sweep.yaml").write_text(text)
        os.utime(base / name / "sweep.yaml", (1000 - age, 1000 - age))
    assert load.latest(base) == resume.find("latest", base / "another") == record.newest(base) == base / "new"
    assert record.newest(tmp_path / "nothing") is None
