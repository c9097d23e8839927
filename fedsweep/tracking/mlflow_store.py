"""Runs in MLflow: a sweep is a parent run, a trial a child. Plain client calls, no global "active run"."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import mlflow
import requests
import sqlalchemy.exc
from mlflow.entities import Metric, Param

from fedsweep import schema
from fedsweep.environment import masked
from fedsweep.errors import UserError
from fedsweep.tracking.base import Tracker
from fedsweep.tracking.run_folder import RoundRow

_FLUSH_SECONDS = 5.0  # log_metric costs 7 ms, a metric of a batch 0.13 ms: they are sent together, this often
_PAUSE_SECONDS = 60.0  # added after a failure
_PARAMS_A_BATCH, _ROUNDS_A_BATCH = 100, 100  # MLflow takes 100 params and 1000 metrics at once
_STATUS = {"complete": "FINISHED", "interrupted": "KILLED"}  # every other status: FAILED
_UNREACHABLE = (mlflow.MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError, ImportError)
_NO_LOCK = contextlib.nullcontext()


def default_uri() -> str:
    """The SQLite file that runs share when no tracking URI is given, below the current folder."""
    return f"sqlite:///{Path.cwd() / 'multirun_outputs' / 'mlflow.db'}"


def connect(config: schema.MlflowTracker) -> tuple[mlflow.MlflowClient, str]:
    """A client and the id of the experiment; makes the database and the experiment on first use.

    Raises:
      UserError: the store cannot be reached; after seconds, where MLflow alone would try for minutes.
    """
    uri = config.uri or default_uri()
    for name in ("alembic", "mlflow.store.db.utils"):  # a page of migrations on first use
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # retries; what fails for good is said below
    artifacts = None
    if config.uri is None:
        folder = Path.cwd() / "multirun_outputs"
        folder.mkdir(exist_ok=True)
        artifacts = (folder / "mlflow_artifacts").as_uri()
    # The first to use a database makes its tables and the experiment: one at a time.
    with _refusing(config), _lock(uri):
        client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None:
            return client, client.create_experiment(config.experiment, artifact_location=artifacts)
    if experiment.lifecycle_stage != "active":
        raise UserError(f"tracker.experiment={config.experiment}: is deleted in {masked(uri)}; name another")
    return client, experiment.experiment_id


def _lock(uri: str) -> contextlib.AbstractContextManager:
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    return filelock.FileLock(f"{path}.lock") if uri.startswith("sqlite:///") and path.parent.is_dir() else _NO_LOCK


@contextlib.contextmanager
def _refusing(config: schema.MlflowTracker) -> Iterator[None]:
    """What goes wrong at the start ends it with one line, soon."""
    try:
        with _few_retries():
            yield
    except _UNREACHABLE as error:
        raise UserError(
            f"tracker.uri={masked(config.uri or default_uri())}: cannot be used ({_reason(error)}); start its server,"
            " name another, or choose tracker=csv"
        ) from error


def _reason(error: Exception) -> str:
    return textwrap.shorten(masked(str(error)), 300, placeholder=" ...") or type(error).__name__


@contextlib.contextmanager
def _forgiving(what: str) -> Iterator[None]:
    """A tracker that fails in the middle must not end a run that has its own files: it is said, and the run goes on."""
    try:
        with _few_retries():
            yield
    except _UNREACHABLE as error:
        print(f"fedsweep: MLflow: {what} ({_reason(error)}); the run's own files have everything", file=sys.stderr)


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """MLflow reads its HTTP settings from the environment at each request."""
    short = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    added = {key: value for key, value in short.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


class MlflowTracker(Tracker):
    """One run. Parameters: the flattened configuration. Metrics at step = round; bits are cumulative."""

    def __init__(self, config: schema.Config, name: str, parent: str | None, run_id: str | None = None):
        self._client, experiment = connect(config.tracker)
        self._waiting: list[list[Metric]] = []  # by round
        self._flushed = time.monotonic()
        self._logged = 0  # the last round that the store knows
        if run_id and self._reopen(run_id, config.tracker):
            return
        tags = {"fedsweep.encoder": config.encoder.name, "fedsweep.dataset": config.dataset.name}
        if parent:
            tags["mlflow.parentRunId"] = parent
        settings = dataclasses.asdict(config)
        del settings["sweep"]  # the parent's
        params = [Param(key, masked(str(value))) for key, value in _flat(settings)]
        with _refusing(config.tracker):
            self.run_id = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
            for first in range(0, len(params), _PARAMS_A_BATCH):
                self._client.log_batch(self.run_id, params=params[first : first + _PARAMS_A_BATCH])

    def _reopen(self, run_id: str, config: schema.MlflowTracker) -> bool:
        """Goes on with a run that was cut off; False if somebody deleted it."""
        with _refusing(config):
            if not _reopened(self._client, run_id):
                return False
            # bits/total comes last in a round, and a batch is written whole or not at all
            self._logged = max((m.step for m in self._client.get_metric_history(run_id, "bits/total")), default=0)
        self.run_id = run_id
        return True

    def log_round(self, row: RoundRow) -> None:
        if row.round <= self._logged:
            return
        values = {
            "train/loss": row.train_loss,
            "train/accuracy": row.train_accuracy,
            "test/loss": row.test_loss,
            "test/accuracy": row.test_accuracy,
            "bits/uplink": row.uplink_bits,
            "bits/downlink": row.downlink_bits,
            "bits/uplink_width": row.uplink_width,
            "bits/total": row.total_bits,
        }
        now = int(time.time() * 1000)
        self._waiting.append([Metric(key, value, now, row.round) for key, value in values.items() if value is not None])
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def finish(self, status: str) -> None:
        self.flush()
        if self._waiting:
            print(f"fedsweep: MLflow: metrics of {len(self._waiting)} rounds were not delivered", file=sys.stderr)
        end(self._client, self.run_id, status)

    def flush(self) -> None:
        """Sends what waits, rounds as a whole; what could not be sent goes on waiting."""
        with _forgiving(f"metrics of {len(self._waiting)} rounds wait"):
            while self._waiting:
                rounds = self._waiting[:_ROUNDS_A_BATCH]
                self._client.log_batch(self.run_id, metrics=[metric for one in rounds for metric in one])
                del self._waiting[:_ROUNDS_A_BATCH]
        # After a failure the next attempt comes later, so a server that hangs does not stall every round.
        self._flushed = time.monotonic() + (_PAUSE_SECONDS if self._waiting else 0)


def start_parent(config: schema.MlflowTracker, name: str, run_id: str | None) -> tuple[mlflow.MlflowClient, str]:
    """The run that a sweep's trials are children of: (client, run id); `run_id` again if it is there.

    `end` closes it.
    """
    client, experiment = connect(config)
    with _refusing(config):
        if run_id and _reopened(client, run_id):
            return client, run_id
        return client, client.create_run(experiment, run_name=name, tags={"fedsweep.sweep": name}).info.run_id


def _reopened(client: mlflow.MlflowClient, run_id: str) -> bool:
    """Sets a run that was cut off to running again; False if the store has it no longer."""
    try:
        client.update_run(run_id, status="RUNNING")
    except mlflow.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise
    return True


def end(client: mlflow.MlflowClient, run_id: str, status: str) -> None:
    """Closes a run: complete -> FINISHED, interrupted -> KILLED, anything else -> FAILED; the status is also a tag."""
    with _forgiving(f"run {run_id} stays open there"):
        client.set_tag(run_id, "fedsweep.status", status)
        client.set_terminated(run_id, _STATUS.get(status, "FAILED"))


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested dictionaries as ("encoder.bits", 8) pairs."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
