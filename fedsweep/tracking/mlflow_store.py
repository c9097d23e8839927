"""MLflow's store: how it is reached, what happens when it cannot be, and which of its runs belong to dead processes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlflow
import requests
import sqlalchemy.exc
from mlflow.entities import Run
from mlflow.store.db import utils as mlflow_database

from fedsweep import schema, store
from fedsweep.errors import DamagedFile, NotWritten, UserError
from fedsweep.secrets import masked
from fedsweep.store import default_uri
from fedsweep.tracking import database

UNREACHABLE = (mlflow.MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError, ImportError)
FILES_FAULT = (NotWritten, DamagedFile)  # of the run's own folder: no tracker is to blame
PROCESS = "fedsweep.process"  # the tag that says which process a run belongs to


def connect(config: schema.Tracker) -> tuple[mlflow.MlflowClient, str]:
    """A client and the id of the experiment; makes the database and the experiment on first use.

    Raises:
      UserError: the store cannot be reached; after seconds, where MLflow alone would try for minutes.
    """
    uri = config.uri or default_uri()
    artifacts, path = None, store.sqlite_file(uri)
    if path and store.is_default(path):
        folder = path.absolute().parent
        with contextlib.suppress(FileNotFoundError):  # of the folder above it: MLflow is about to say so
            folder.mkdir(exist_ok=True)
        artifacts = (folder / "mlflow_artifacts").as_uri()
    # The first to use a database makes its tables and the experiment: one at a time.
    _quieten()  # making tables is a page of migrations
    with refusing(config), database.locked(uri):
        database.make(uri)
        client = _client(uri)
        experiment = client.get_experiment_by_name(config.experiment)
        if experiment is None:
            # MLflow's pages would show an experiment without a kind as one of prompts and traces.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return client, client.create_experiment(config.experiment, artifact_location=artifacts, tags=kind)
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"tracker.experiment={config.experiment}: is deleted in {store.named(config.uri)}; name another"
        )
    return client, experiment.experiment_id


@contextlib.contextmanager
def reading(uri: str | None, key: str, right: str) -> Iterator[mlflow.MlflowClient]:
    """A client for those who only read, within the time limits of those who write; makes no database.

    Args:
      uri: of the store; None: MLFLOW_TRACKING_URI, else the default.
      key: what messages call `uri`.
      right: what they say that a person can do.

    Raises:
      UserError: the store is not there, or cannot be reached, now or within the context.
    """
    store.refuse_missing(uri, key)
    try:
        with _few_retries():
            yield _client(store.chosen(uri) or default_uri())
    except FILES_FAULT:
        raise
    except UNREACHABLE as error:
        if advice := database.half_made(store.chosen(uri) or default_uri(), error):
            raise UserError(advice) from error
        raise UserError(f"{store.named(uri, key)}: cannot be read ({_reason(error)}); {right}") from error


def _client(uri: str) -> mlflow.MlflowClient:
    _quieten()
    return mlflow.MlflowClient(tracking_uri=uri)


def _quieten() -> None:
    """What MLflow says beside its exceptions, which are told in one line."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a page of migrations on first use
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the same, and tracebacks of what it raises
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # retries; what fails for good is said here
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # "View run ... at http://user:password@..."


@contextlib.contextmanager
def refusing(config: schema.Tracker) -> Iterator[None]:
    """What goes wrong at the start ends it with one line, soon."""
    try:
        with _few_retries():
            yield
    except FILES_FAULT:
        raise
    except UNREACHABLE as error:
        if advice := database.half_made(config.uri or default_uri(), error):
            raise UserError(advice) from error
        raise UserError(
            f"{store.named(config.uri)}: cannot be used ({_reason(error)}); start its server, name another"
            " (tracker.uri), or choose tracker=csv"
        ) from error


def _reason(error: Exception) -> str:
    return textwrap.shorten(masked(str(error)), 300, placeholder=" ...") or type(error).__name__


@contextlib.contextmanager
def forgiving(what: str, lost: list[str] | None = None) -> Iterator[None]:
    """A tracker that fails in the middle must not end a run that has its own files: it is said, and the run goes on.

    Artifact stores raise exceptions of their own (boto's, Azure's), so all are taken. `lost` gets what is missing in
    MLflow from now on.
    """
    try:
        with _few_retries():
            yield
    except FILES_FAULT:
        raise
    except Exception as error:
        print(f"fedsweep: MLflow: {what} ({_reason(error)}); the run's own files have everything", file=sys.stderr)
        if lost is not None:
            lost.append(f"{what} ({_reason(error)})")


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """MLflow and libpq read these settings from the environment each time; that of databases is a constant there."""
    short = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "PGCONNECT_TIMEOUT": "10"}
    added = {key: value for key, value in short.items() if key not in os.environ}
    os.environ.update(added)
    attempts, mlflow_database.MAX_RETRY_COUNT = mlflow_database.MAX_RETRY_COUNT, 2  # ten take two minutes
    try:
        yield
    finally:
        mlflow_database.MAX_RETRY_COUNT = attempts
        for key in added:
            del os.environ[key]


def search(client: mlflow.MlflowClient, experiments: Sequence[str], wanted: str) -> Iterator[Run]:
    """All runs that match and that nobody has deleted; MLflow gives a thousand at a time."""
    token = None
    while True:
        page = client.search_runs(list(experiments), wanted, max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return


def children(client: mlflow.MlflowClient, experiment: str, parent: str) -> Iterator[Run]:
    """The runs below another one."""
    return search(client, [experiment], f"tags.mlflow.parentRunId = '{parent}'")


def this_process() -> str:
    """Host, boot, name space, number and start of this process: enough to know later whether it still runs."""
    return json.dumps([*_here(), os.getpid(), _started(os.getpid())])


def _here() -> list[str]:
    """Where numbers of processes mean the same."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return [socket.gethostname(), boot, str(Path("/proc/self/ns/pid").readlink())]


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks, which no change of the clock moves; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def is_dead(process: str, local: bool) -> bool:
    """Whether the process of a tag is known to have ended. `local`: the store is a file, so that a process of this host
    before its last start has ended; of other machines and containers nobody here knows."""
    try:
        host, boot, space, pid, started = json.loads(process)
    except ValueError:  # somebody else's tag
        return False
    own_host, own_boot, own_space = _here()
    if host != own_host or space != own_space:
        return False
    return local if boot != own_boot else _started(pid) != started


def close_dead(client: mlflow.MlflowClient, experiments: Sequence[str]) -> int:
    """Ends runs as failed that processes of this host left open when they were killed; how many."""
    dead, local = [], store.sqlite_file(client.tracking_uri) is not None
    with forgiving("runs that were killed may still show as running"):
        running = search(client, experiments, "attributes.status = 'RUNNING'")
        dead += [run.info.run_id for run in running if is_dead(run.data.tags.get(PROCESS, ""), local)]
    for run_id in dead:
        end(client, run_id, "failed")
    return len(dead)


def reopened(client: mlflow.MlflowClient, run_id: str) -> bool:
    """Sets a run that was cut off to running again; False if the store has it no longer."""
    try:
        client.set_tag(run_id, PROCESS, this_process())  # first: nobody may take it for a dead one's
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "status", "running")
    except mlflow.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise
    return True


def end(client: mlflow.MlflowClient, run_id: str, status: str, lost: list[str] | None = None) -> None:
    """Closes a run with a status of result.json, which is also a tag; `lost` is told if that fails."""
    with forgiving(f"run {run_id} stays open there", lost):
        close(client, run_id, status)


def close(client: mlflow.MlflowClient, run_id: str, status: str, end_time: int | None = None) -> None:
    """`end` that raises. `end_time`: milliseconds since 1970; now, if there is none."""
    client.set_tag(run_id, "status", status)
    client.set_terminated(run_id, closed_as(status), end_time)


def closed_as(status: str) -> str:
    """MLflow's word for a status of result.json."""
    return {"complete": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED")
