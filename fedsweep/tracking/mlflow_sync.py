"""Compares a folder's runs with MLflow's and makes MLflow's what the folder says.

Runs that MLflow has lost, never heard of or heard half of are made or completed; runs of the sweep that contradict the
folder, or that it does not know, are deleted there. What agrees already stays as it is.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Run, ViewType

from fedsweep.errors import DamagedFile, NotWritten
from fedsweep.sweep import record as records
from fedsweep.sweep.record import Record, Trial
from fedsweep.tracking import mlflow_run, mlflow_store
from fedsweep.tracking.base import About, Place
from fedsweep.tracking.run_folder import (
    AGAIN,
    RESULT,
    ROUNDS,
    RoundRow,
    is_over,
    note_run_id,
    read_config,
    read_environment,
    read_result,
    read_rounds,
)

NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as a run's description
_MAY_DIFFER = ("tracker.", "runtime.", "checkpoint_every")  # a sweep may be resumed with others


@dataclass(frozen=True)
class Files:
    """A run that has begun, as its folder has it."""

    about: About
    settings: Mapping  # config.yaml
    result: Mapping
    rows: Sequence[RoundRow]
    started: int  # milliseconds since 1970
    ended: int

    @property
    def status(self) -> str:
        """What MLflow says of it: a run that was killed is one that failed, until it goes on."""
        return "failed" if self.result["status"] == "running" else self.result["status"]

    def expected(self) -> dict[str, dict[int, Metric]]:
        """What MLflow should hold: metric -> step -> its only entry."""
        found: dict[str, dict[int, Metric]] = collections.defaultdict(dict)
        when = self.ended - sum(row.seconds for row in self.rows) * 1000
        for row in self.rows:
            when += row.seconds * 1000
            for metric in mlflow_run.round_metrics(row, int(when)):
                found[metric.key][metric.step] = metric
        return found


def read(folder: Path, name: str, place: Place | None) -> Files:
    """The files of a run whose result.json has a plan; raises `DamagedFile`."""
    result, settings, environment = read_result(folder), read_config(folder), read_environment(folder)
    if not (result and result.get("plan")):
        raise DamagedFile(folder / RESULT, "is that of no run that has begun", AGAIN)
    about = About(name, folder, environment, result["plan"], result.get("mlflow_run_id"), place)
    rows = read_rounds(folder / ROUNDS)
    seconds = sum(row.seconds for row in rows)
    if not math.isfinite(seconds):
        raise DamagedFile(folder / ROUNDS, f"cannot be read (its rounds took {seconds} seconds)", AGAIN)
    ended = int((folder / RESULT).stat().st_mtime * 1000)
    return Files(about, settings, result, rows, ended - int(seconds * 1000), ended)


@dataclass
class Tally:
    """What was done."""

    made: int = 0
    completed: int = 0  # runs that were there and lacked something
    deleted: int = 0
    agreed: int = 0
    skipped: list[str] = dataclasses.field(default_factory=list)  # a line each

    @property
    def changed(self) -> bool:
        return bool(self.made or self.completed or self.deleted)

    def __str__(self) -> str:
        done = {
            "made": self.made,
            "completed": self.completed,
            "deleted": self.deleted,
            "right already": self.agreed,
        }
        return ", ".join(f"{number} {what}" for what, number in done.items() if number) or "none has begun"


class Store:
    """MLflow's side of the comparison."""

    def __init__(self, client: mlflow.MlflowClient, experiment: str, thorough: bool = False):
        """`thorough`: ask for every value of every metric, a query each, where a look at the last ones agrees."""
        self.client, self.experiment, self.tally = client, experiment, Tally()
        self._thorough = thorough

    def find(self, run_id: str | None) -> Run | None:
        """A run of this experiment that nobody has deleted."""
        run = self.look_up(run_id)
        return run if run and run.info.experiment_id == self.experiment else None

    def look_up(self, run_id: str | None) -> Run | None:
        """A run of any experiment that nobody has deleted."""
        if not run_id:
            return None
        try:
            run = self.client.get_run(run_id)
        except mlflow.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def unrecorded(self, files: Files) -> Run | None:
        """A single run's run that its process made before it was killed, so that the folder does not know of it.

        One that had begun before this folder's files were written is that of an earlier run in a folder of this name.
        """
        tag = mlflow_run.origin_tags(files.about)[mlflow_run.FOLDER]
        begun = int((files.about.folder / "config.yaml").stat().st_mtime * 1000)
        wanted = f"tags.`{mlflow_run.FOLDER}` = '{tag}' and attributes.start_time >= {begun}"
        return next(iter(self.client.search_runs([self.experiment], wanted, ViewType.ACTIVE_ONLY, 1)), None)

    def children(self, parents: Iterable[str]) -> list[Run]:
        return [run for parent in parents for run in mlflow_store.children(self.client, self.experiment, parent)]

    def bring(self, files: Files, found: Run | None, on_front: bool | None) -> str:
        """Makes the run of a folder what it should be; its id. `found`: the one that is there."""
        expected, over = files.expected(), is_over(files.result)
        values = mlflow_run.params(files.settings, files.about.plan)
        missing: list[list[Metric]] | None = []
        if found:
            missing = self._missing(found, expected, over)
            if missing is None or _differs(found.data.params, values):
                self.client.delete_run(found.info.run_id)
                self.tally.deleted += 1
                found = None
        is_new = found is None
        if found is None:
            about = files.about
            run_id = mlflow_run.create(self.client, self.experiment, files.settings, about, files.started)
            found = self.client.get_run(run_id)
            missing = _by_round(expected)
        changed = self._complete(found, files, values, missing, on_front)
        if is_new:
            self.tally.made += 1
        elif changed:
            self.tally.completed += 1
        else:
            self.tally.agreed += 1
        return found.info.run_id

    def _missing(self, run: Run, expected: Mapping, over: bool) -> list[list[Metric]] | None:
        """By round, the metrics that a run lacks; None if it has what its folder contradicts.

        A run that is not over may have rounds that its folder has lost: they will come again, equal.
        """
        if not self._thorough and self._looks_whole(run, expected):
            return []
        missing: dict[int, list[Metric]] = collections.defaultdict(list)
        for key, steps in expected.items():
            history = self.client.get_metric_history(run.info.run_id, key) if key in run.data.metrics else []
            there = {metric.step: metric.value for metric in history}
            wrong = [step for step in there if step in steps and not _same(there[step], steps[step].value)]
            if len(history) > len(there) or wrong or (over and not there.keys() <= steps.keys()):
                return None
            for step in steps.keys() - there.keys():
                missing[step].append(steps[step])
        return [missing[step] for step in sorted(missing)]

    def _looks_whole(self, run: Run, expected: Mapping) -> bool:
        """bits/total comes last in a round, and a batch is written whole or not at all."""
        last = {key: steps[max(steps)].value for key, steps in expected.items()}
        if not all(key in run.data.metrics and _same(run.data.metrics[key], value) for key, value in last.items()):
            return False
        steps = [metric.step for metric in self.client.get_metric_history(run.info.run_id, "bits/total")]
        return sorted(steps) == sorted(expected.get("bits/total", ()))

    def _complete(
        self, run: Run, files: Files, values: Mapping, missing: Sequence[Sequence[Metric]], on_front: bool | None
    ) -> bool:
        """Adds what a run lacks, its end last; whether there was anything."""
        client, run_id, about, changed = self.client, run.info.run_id, files.about, bool(missing)
        if lacking := {key: value for key, value in values.items() if key not in run.data.params}:
            changed = True
            mlflow_run.log_params(client, run_id, lacking)
        for batch in mlflow_run.batches(missing):
            mlflow_run.log_rounds(client, run_id, batch)
        if not run.inputs.dataset_inputs:
            changed = True
            mlflow_run.attach_data(client, run_id, files.settings, about.environment)
        if not set(mlflow_run.FILES) <= {item.path for item in client.list_artifacts(run_id)}:
            changed = True
            mlflow_run.attach(client, run_id, about)
        tags = mlflow_run.origin_tags(about)
        if on_front is not None:
            tags["on_front"] = str(on_front).lower()
        changed |= set_tags(client, run, tags)
        if "undelivered_rounds" in run.data.tags:
            changed = True
            client.delete_tag(run_id, "undelivered_rounds")
        return self.close(run, files.status, files.ended) or changed

    def close(self, run: Run, status: str, ended: int | None) -> bool:
        """Ends a run with its status; whether it had another."""
        if (run.data.tags.get("status"), run.info.status) == (status, mlflow_store.closed_as(status)):
            return False
        mlflow_store.close(self.client, run.info.run_id, status, ended)
        return True

    def delete(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.client.delete_run(run.info.run_id)
        self.tally.deleted += len(runs)


def _by_round(expected: Mapping[str, Mapping[int, Metric]]) -> list[list[Metric]]:
    rounds: dict[int, list[Metric]] = collections.defaultdict(list)
    for steps in expected.values():
        for step, metric in steps.items():
            rounds[step].append(metric)
    return [rounds[step] for step in sorted(rounds)]


def _same(there: float, here: float) -> bool:
    """MLflow keeps infinities as the largest float."""
    largest = sys.float_info.max
    return math.isnan(there) == math.isnan(here) and (
        math.isnan(here) or math.isclose(there, max(-largest, min(largest, here)), rel_tol=1e-12)
    )


def _differs(there: Mapping[str, str], here: Mapping[str, str]) -> bool:
    return any(there[key] != value for key, value in here.items() if key in there and not key.startswith(_MAY_DIFFER))


def set_tags(client: mlflow.MlflowClient, run: Run, tags: Mapping[str, str]) -> bool:
    """Sets the tags that a run has not, or has with other values; whether there were any."""
    changed = {key: value for key, value in tags.items() if run.data.tags.get(key) != value}
    for key, value in changed.items():
        client.set_tag(run.info.run_id, key, value)
    return bool(changed)


def sweep_run(
    store: Store,
    folder: Path,
    record: Record,
    command: Sequence[str],
    commit: str | None,
    started: int | None,
    lost: list[str],
) -> tuple[Record, bool]:
    """The sweep's run with its tags, its description and sweep.yaml.

    Args:
      store: where it is, or will be.
      folder: the sweep's.
      record: its sweep.yaml, which is written again if the run is a new one.
      command: the arguments that the sweep was started with.
      commit: of the checkout it was started from.
      started: when, in milliseconds since 1970, if it has ended; None: it is going on, in this process.
      lost: is told what MLflow lacks.

    Returns:
      The record with the run's id; whether something was made or changed.
    """
    client, about = store.client, dataclasses.asdict(record)
    tags = mlflow_run.sweep_tags(folder.name, about)
    found = store.look_up(record.mlflow_run_id) if started else store.find(record.mlflow_run_id)
    if found and not started and not mlflow_store.reopened(client, found.info.run_id):
        found = None
    changed = found is None
    if found is None:
        run_id = mlflow_run.create_sweep(client, store.experiment, folder.name, tags, commit, started)
        record = dataclasses.replace(record, mlflow_run_id=run_id)
        try:
            record.write(folder)
        except NotWritten:
            mlflow_store.end(client, run_id, "failed")
            raise
        found = client.get_run(run_id)
    run_id = found.info.run_id
    store.experiment = found.info.experiment_id  # it may have been resumed with another one
    changed |= set_tags(client, found, tags)
    if changed or not started:
        client.set_tag(run_id, NOTE, mlflow_run.description(about, command))
    with mlflow_store.forgiving(f"{records.SWEEP} is not attached", lost):
        if changed or not started or records.SWEEP not in {item.path for item in client.list_artifacts(run_id)}:
            client.log_artifact(run_id, str(folder / records.SWEEP))
    return record, changed


def children(
    store: Store, folder: Path, record: Record, trials: Sequence[Trial], parent: str, former: str | None
) -> None:
    """Makes the children of a sweep's run what its folder says. Their ids go into the results, on disk and here.

    Args:
      store: what was done is in its tally afterwards.
      folder: the sweep's; nobody else may be running it.
      record: its sweep.yaml.
      trials: those that have begun.
      parent: the id of the sweep's run.
      former: the id of the one that had the children before; it may have been deleted.
    """
    best = records.front(trials, record.objectives)
    left = {run.info.run_id: run for run in store.children(dict.fromkeys(filter(None, (parent, former))))}
    for trial in trials:
        for replicate, result in trial.results.items():
            place = Place(folder.name, parent, trial.number, replicate, trial.shown)
            run_folder = folder / record.run_folder(trial.number, replicate)
            own = left.get(result.get("mlflow_run_id")) or store.find(result.get("mlflow_run_id"))
            same = [run for run in left.values() if _is_at(run, place)]
            found = own or next(iter(same), None)
            if not result.get("plan"):  # it ended before it had anything to show, or has hardly begun
                if found:
                    left.pop(found.info.run_id, None)
                    set_tags(store.client, found, mlflow_run.place_tags(place))
                    if is_over(result):
                        store.close(found, result["status"], None)
                        note(run_folder, result, found.info.run_id)
                continue
            name = trial.title if record.replicates == 1 else f"{trial.title} replicate {replicate}"
            if found:
                left.pop(found.info.run_id, None)
            try:
                files = read(run_folder, name, place)
                run_id = store.bring(files, found, trial.number in best)
                note(run_folder, result, run_id)
            except DamagedFile as error:
                store.tally.skipped.append(str(error))
    if left:  # of a trial that is not among these: its own is made again, or it is somebody's
        told = _told(folder)
        nobodys = [run for run_id, run in left.items() if run_id not in told]
        store.delete([run for run in nobodys if "trial" in run.data.tags])  # others are somebody else's


def _told(folder: Path) -> set[str]:
    """The ids of all runs that results in the folder name."""
    found = set()
    for path in folder.glob("[0-9]*/**/" + RESULT):
        with contextlib.suppress(DamagedFile):
            found.add((read_result(path.parent) or {}).get("mlflow_run_id"))
    return found - {None}


def _is_at(run: Run, place: Place) -> bool:
    tags = run.data.tags
    return (tags.get("trial"), tags.get("replicate")) == (str(place.trial), str(place.replicate))


def note(folder: Path, result: dict, run_id: str) -> None:
    if result.get("mlflow_run_id") != run_id:
        note_run_id(folder, run_id)
        result["mlflow_run_id"] = run_id
