"""Runs in MLflow while they go on: a sweep is a parent run, a trial a child. No global "active run"."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from fedsweep import schema, store
from fedsweep.tracking import mlflow_run, mlflow_store, mlflow_sync
from fedsweep.tracking.base import About, Tracker
from fedsweep.tracking.mlflow_store import forgiving, refusing
from fedsweep.tracking.run_folder import RoundRow

if TYPE_CHECKING:
    from fedsweep.sweep.record import Record, Trial

_FLUSH_SECONDS = 5.0  # log_metric costs 7 ms, a metric of a batch 0.13 ms: they are sent together, this often
_PAUSE_SECONDS = 60.0  # added after a failure


class MlflowTracker(Tracker):
    """One run. Parameters: the flattened configuration, the plan's bits. Metrics at step = round; bits cumulative."""

    def __init__(self, config: schema.Config, about: About):
        super().__init__()
        self._client, experiment = mlflow_store.connect(config.tracker)
        self._waiting: list[list[Metric]] = []  # by round
        self._flushed = time.monotonic()
        self._logged = 0  # the last round that the store knows
        settings = dataclasses.asdict(config)
        with refusing(config.tracker):
            run_id = about.run_id or self._unrecorded(about, experiment)
            if not (run_id and self._reopen(run_id)):
                self.run_id = mlflow_run.create(self._client, experiment, settings, about)
            if self.run_id != about.run_id:  # new, or left without all it needs
                self._describe(settings, about)
        self._monitor = None
        if config.tracker.system_metrics:
            uri = config.tracker.uri or store.default_uri()
            self._monitor = SystemMetricsMonitor(self.run_id, resume_logging=bool(self._logged), tracking_uri=uri)
            self._monitor.start()

    def _unrecorded(self, about: About, experiment: str) -> str | None:
        """Finds a run created by a process that was killed before it saved the run's id."""
        if not (about.sweep and about.sweep.parent):
            return None
        tags = mlflow_run.place_tags(about.sweep)
        place = {key: tags[key] for key in ("mlflow.parentRunId", "trial", "replicate")}
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in place.items())
        found = self._client.search_runs([experiment], wanted, max_results=1)
        return found[0].info.run_id if found else None

    def _describe(self, settings: Mapping, about: About) -> None:
        try:
            mlflow_run.log_params(self._client, self.run_id, mlflow_run.params(settings, about.plan))
        except mlflow_store.UNREACHABLE:
            mlflow_store.end(self._client, self.run_id, "failed")
            raise
        with forgiving("its data set, config.yaml and plan.json are not attached", self.lost):
            mlflow_run.attach_data(self._client, self.run_id, settings, about.environment)
            mlflow_run.attach(self._client, self.run_id, about)

    def _reopen(self, run_id: str) -> bool:
        """Goes on with a run that was cut off; False if somebody deleted it."""
        if not mlflow_store.reopened(self._client, run_id):
            return False
        # bits/total comes last in a round, and a batch is written whole or not at all
        self._logged = max((m.step for m in self._client.get_metric_history(run_id, "bits/total")), default=0)
        self.run_id = run_id
        return True

    def log_round(self, row: RoundRow) -> None:
        if row.round <= self._logged:
            return
        self._waiting.append(mlflow_run.round_metrics(row, int(time.time() * 1000)))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def finish(self, status: str) -> None:
        self.flush()
        if self._waiting:
            print(f"fedsweep: MLflow: metrics of {len(self._waiting)} rounds were not delivered", file=sys.stderr)
            self.lost.append(f"metrics of {len(self._waiting)} rounds were not delivered")
            told = False
            with forgiving("it does not say so itself"):  # fedsweep.pareto leaves such a run out
                self._client.set_tag(self.run_id, "undelivered_rounds", str(len(self._waiting)))
                told = True
            if not told and status == "complete":  # a store that is back now must not take it for a whole one
                status = "failed"
        if self._monitor:
            self._monitor.finish()
        mlflow_store.end(self._client, self.run_id, status, self.lost)

    def flush(self) -> None:
        """Sends what waits, rounds as a whole; what could not be sent goes on waiting."""
        with forgiving(f"metrics of {len(self._waiting)} rounds wait"):
            for batch in list(mlflow_run.batches(self._waiting)):
                mlflow_run.log_rounds(self._client, self.run_id, batch)
                del self._waiting[: len(batch)]
        # After a failure the next attempt comes later, so a server that hangs does not stall every round.
        self._flushed = time.monotonic() + (_PAUSE_SECONDS if self._waiting else 0)


class Parent:
    """The run that a sweep's trials are children of. `close` ends it."""

    def __init__(
        self, config: schema.Tracker, folder: Path, record: Record, commit: str | None, command: Sequence[str]
    ):
        """Goes on with the run that the record names, if the store has it; else makes one (`mlflow_sync.sweep_run`).

        Its tags and its description follow the record, which may have been extended; it runs until `close`.
        """
        self.client, self.experiment = mlflow_store.connect(config)
        self.lost: list[str] = []  # what MLflow has not been told
        self._start = command, commit
        with refusing(config):
            self.record = self._open(mlflow_sync.Store(self.client, self.experiment), folder, record)

    @property
    def run_id(self) -> str:
        return self.record.mlflow_run_id

    def _open(self, store: mlflow_sync.Store, folder: Path, record: Record) -> Record:
        return mlflow_sync.sweep_run(store, folder, record, *self._start, None, self.lost)[0]

    def sync(self, folder: Path, record: Record, trials: Sequence[Trial], former: str | None) -> None:
        """Makes the runs at MLflow what the folder says (`mlflow_sync.children`).

        Args:
          folder: the sweep's.
          record: its sweep.yaml.
          trials: those that have begun.
          former: the run that had the children until now; None: this one.
        """
        with forgiving("its runs may differ from the folder", self.lost):
            store = mlflow_sync.Store(self.client, self.experiment)
            if store.find(self.run_id) is None:  # somebody has deleted it since
                former, self.record = self.run_id, self._open(store, folder, record)
            mlflow_sync.children(store, folder, record, trials, self.run_id, former)
            if store.tally.changed:
                print(f"MLflow now has what the folder has: {store.tally}")
            self.lost += store.tally.skipped

    def report(self, front: Mapping[str, bool], figures: Path, table: str) -> None:
        """`on_front` on the children (run id -> whether), the figures as artifacts, the front in the description."""
        with forgiving("the front is not marked", self.lost):
            for run_id, on in front.items():
                self.client.set_tag(run_id, "on_front", str(on).lower())
            about = mlflow_run.description(dataclasses.asdict(self.record), self._start[0])
            self.client.set_tag(self.run_id, mlflow_sync.NOTE, f"{about}\n\n{table}")
        if figures.is_dir():
            with forgiving("the sweep's figures are not attached", self.lost):
                self.client.log_artifacts(self.run_id, str(figures), "figures")

    def close(self, status: str) -> None:
        mlflow_store.end(self.client, self.run_id, status, self.lost)
