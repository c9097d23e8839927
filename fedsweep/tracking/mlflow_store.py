"""Runs in MLflow: a sweep is a parent run, a trial a child. Plain client calls, no global "active run"."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import socket
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import filelock
import mlflow
import requests
import sqlalchemy.exc
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from fedsweep import schema, shown
from fedsweep.environment import masked
from fedsweep.errors import UserError
from fedsweep.files import as_json
from fedsweep.tracking.base import About, Tracker, metrics
from fedsweep.tracking.run_folder import RoundRow

_FLUSH_SECONDS = 5.0  # log_metric costs 7 ms, a metric of a batch 0.13 ms: they are sent together, this often
_PAUSE_SECONDS = 60.0  # added after a failure
_PARAMS_A_BATCH, _ROUNDS_A_BATCH = 100, 100  # MLflow takes 100 params and 1000 metrics at once
_STATUS = {"complete": "FINISHED", "interrupted": "KILLED"}  # every other status: FAILED
_UNREACHABLE = (mlflow.MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError, ImportError)
_NO_LOCK = contextlib.nullcontext()
_PROCESS = "fedsweep.process"  # the tag that says which process a run belongs to
_MOST_LISTED = 20


def default_uri() -> str:
    """The SQLite file that runs share when no tracking URI is given, below the current folder."""
    return f"sqlite:///{Path.cwd() / 'multirun_outputs' / 'mlflow.db'}"


def connect(config: schema.Tracker) -> tuple[mlflow.MlflowClient, str]:
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
            # MLflow's pages would show an experiment without a kind as one of prompts and traces.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return client, client.create_experiment(config.experiment, artifact_location=artifacts, tags=kind)
    if experiment.lifecycle_stage != "active":
        raise UserError(f"tracker.experiment={config.experiment}: is deleted in {masked(uri)}; name another")
    return client, experiment.experiment_id


def _lock(uri: str) -> contextlib.AbstractContextManager:
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    return filelock.FileLock(f"{path}.lock") if uri.startswith("sqlite:///") and path.parent.is_dir() else _NO_LOCK


@contextlib.contextmanager
def _refusing(config: schema.Tracker) -> Iterator[None]:
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
    """A tracker that fails in the middle must not end a run that has its own files: it is said, and the run goes on.

    Artifact stores raise exceptions of their own (boto's, Azure's), so all are taken.
    """
    try:
        with _few_retries():
            yield
    except Exception as error:
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
    """One run. Parameters: the flattened configuration, the plan's bits. Metrics at step = round; bits cumulative."""

    def __init__(self, config: schema.Config, about: About):
        self._client, experiment = connect(config.tracker)
        self._waiting: list[list[Metric]] = []  # by round
        self._flushed = time.monotonic()
        self._logged = 0  # the last round that the store knows
        with _refusing(config.tracker):
            run_id = about.run_id or self._unrecorded(about, experiment)
            if not (run_id and self._reopen(run_id)):
                self._create(config, about, experiment)
            if self.run_id != about.run_id:  # new, or left without all it needs
                self._describe(config, about)
        self._monitor = None
        if config.tracker.system_metrics:
            self._monitor = SystemMetricsMonitor(
                self.run_id, resume_logging=bool(self._logged), tracking_uri=config.tracker.uri or default_uri()
            )
            self._monitor.start()

    def _create(self, config: schema.Config, about: About, experiment: str) -> None:
        tags = {
            "encoder": config.encoder.name,
            "dataset": config.dataset.name,
            "status": "running",
            _PROCESS: _this_process(),
            "mlflow.note.content": shown.in_code(" ".join(about.environment["command"])),
            **_commit(about.environment["git_commit"]),
        }
        if place := about.sweep:
            point = {"trial": str(place.trial), "replicate": str(place.replicate), "point": json.dumps(place.point)}
            tags |= {"sweep": place.sweep, **point}
            if place.parent:
                tags["mlflow.parentRunId"] = place.parent
        self.run_id = self._client.create_run(experiment, run_name=about.name, tags=tags).info.run_id

    def _unrecorded(self, about: About, experiment: str) -> str | None:
        """A run that its process made here and was killed before its folder knew of it."""
        if not (about.sweep and about.sweep.parent):
            return None
        place = {
            "mlflow.parentRunId": about.sweep.parent,
            "trial": about.sweep.trial,
            "replicate": about.sweep.replicate,
        }
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in place.items())
        found = self._client.search_runs([experiment], wanted, max_results=1)
        return found[0].info.run_id if found else None

    def _describe(self, config: schema.Config, about: About) -> None:
        settings = dataclasses.asdict(config)
        del settings["sweep"]  # the parent's
        bits = ("clients", "messages", "float32_uplink_bits", "float32_downlink_bits", "uplink_bits", "downlink_bits")
        settings["plan"] = {name: about.plan[name] for name in bits}
        params = [Param(key, masked(str(value))) for key, value in _flat(settings)]
        try:
            for first in range(0, len(params), _PARAMS_A_BATCH):
                self._client.log_batch(self.run_id, params=params[first : first + _PARAMS_A_BATCH])
        except _UNREACHABLE:
            end(self._client, self.run_id, "failed")
            raise
        with _forgiving("its data set, config.yaml and plan.json are not attached"):
            self._attach(_data_set(config, about))
            self._client.log_artifact(self.run_id, str(about.folder / "config.yaml"))
            self._client.log_text(self.run_id, as_json(about.plan), "plan.json")

    def _attach(self, data: DatasetInput) -> None:
        try:
            self._client.log_inputs(self.run_id, datasets=[data])
        # MLflow looks for the data set, then adds it: a run that starts at the same time can do so in between.
        except (mlflow.MlflowException, sqlalchemy.exc.SQLAlchemyError):
            self._client.log_inputs(self.run_id, datasets=[data])

    def _reopen(self, run_id: str) -> bool:
        """Goes on with a run that was cut off; False if somebody deleted it."""
        if not _reopened(self._client, run_id):
            return False
        # bits/total comes last in a round, and a batch is written whole or not at all
        self._logged = max((m.step for m in self._client.get_metric_history(run_id, "bits/total")), default=0)
        self.run_id = run_id
        return True

    def log_round(self, row: RoundRow) -> None:
        if row.round <= self._logged:
            return
        # MLflow's pages have no logarithmic axes.
        logs = {f"bits_log10/{way}": math.log10(getattr(row, f"{way}_bits")) for way in ("uplink", "downlink", "total")}
        values = logs | metrics(row)
        now = int(time.time() * 1000)
        self._waiting.append([Metric(key, value, now, row.round) for key, value in values.items()])
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def finish(self, status: str) -> None:
        self.flush()
        if self._waiting:
            print(f"fedsweep: MLflow: metrics of {len(self._waiting)} rounds were not delivered", file=sys.stderr)
            with _forgiving("it does not say so itself"):  # fedsweep.pareto leaves such a run out
                self._client.set_tag(self.run_id, "undelivered_rounds", str(len(self._waiting)))
        if self._monitor:
            self._monitor.finish()
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


class Parent:
    """The run that a sweep's trials are children of. `close` ends it."""

    def __init__(self, config: schema.Tracker, folder: Path, record: Mapping, commit: str | None):
        """Goes on with the run that the record (`Record` as a dict) names, if the store has it; else makes one."""
        self._client, self.experiment = connect(config)
        self._about = _description(record)
        with _refusing(config):
            self.run_id = record["mlflow_run_id"]
            if self.run_id and _reopened(self._client, self.run_id):
                return
            tags = {
                "sweep": folder.name,
                "space": json.dumps(list(record["space"])),
                "encoder": _swept(record, "encoder"),
                "dataset": _swept(record, "dataset"),
                "status": "running",
                _PROCESS: _this_process(),
                "mlflow.note.content": self._about,
                **_commit(commit),
            }
            self.run_id = self._client.create_run(self.experiment, run_name=folder.name, tags=tags).info.run_id
        with _forgiving("sweep.yaml is not attached"):
            self._client.log_artifact(self.run_id, str(folder / "sweep.yaml"))

    def report(self, front: Mapping[str, bool], figures: Path, table: str) -> None:
        """`on_front` on the children (run id -> whether), the figures as artifacts, the front in the description."""
        with _forgiving("the front is not marked"):
            for run_id, on in front.items():
                self._client.set_tag(run_id, "on_front", str(on).lower())
            self._client.set_tag(self.run_id, "mlflow.note.content", f"{self._about}\n\n{table}")
        with _forgiving("the sweep's figures are not attached"):
            self._client.log_artifacts(self.run_id, str(figures), "figures")

    def close(self, status: str) -> None:
        end(self._client, self.run_id, status)


def _description(record: Mapping) -> str:
    """What a person reads above the runs, in Markdown."""
    space = [f"| `{key}` | {shown.in_markdown(_listed(values))} |" for key, values in record["space"].items()]
    aims = ", ".join(f"{direction} {metric}" for metric, direction in record["objectives"].items())
    command = masked(" ".join(sys.argv[1:]))
    size = f"{record['n_trials']} trials, {record['replicates']} seeds each; {aims}."
    table = ["| swept | values |", "|---|---|", *space] if space else []
    return "\n".join([shown.in_code(f"python -m fedsweep {command}"), "", size, "", *table])


def _swept(record: Mapping, group: str) -> str:
    """The choices of a group in a sweep."""
    return _listed(record["space"].get(group, [record["config"][group]["name"]]))


def _listed(values: Sequence[str] | str) -> str:
    """Some of many: descriptions and tags have 8000 characters."""
    if isinstance(values, str):
        return values
    values = [shown.value(value) for value in values]
    more = [f"... ({len(values)} values)"] if len(values) > _MOST_LISTED else []
    return ", ".join([*values[:_MOST_LISTED], *more])


def _commit(commit: str | None) -> dict[str, str]:
    """The second is where MLflow's pages look for it."""
    return {"git_commit": commit, "mlflow.source.git.commit": commit.removesuffix("-dirty")} if commit else {}


def _data_set(config: schema.Config, about: About) -> DatasetInput:
    data = about.environment["data"]
    found = Dataset(
        name=config.dataset.name,
        digest=data["sha256"][:16],
        source_type="local",
        source=json.dumps({"path": data["source"]}),
        profile=json.dumps({"description": data["description"], "sha256": data["sha256"]}),
    )
    return DatasetInput(found, tags=[InputTag("mlflow.data.context", "training and test")])


def _this_process() -> str:
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


def _is_dead(process: str, local: bool) -> bool:
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
    dead, local = [], client.tracking_uri.startswith("sqlite:")
    with _forgiving("runs that were killed may still show as running"):
        token = ""
        while token is not None:
            wanted = "attributes.status = 'RUNNING'"
            page = client.search_runs(list(experiments), wanted, max_results=1000, page_token=token or None)
            dead += [run.info.run_id for run in page if _is_dead(run.data.tags.get(_PROCESS, ""), local)]
            token = page.token
    for run_id in dead:
        end(client, run_id, "failed")
    return len(dead)


def _reopened(client: mlflow.MlflowClient, run_id: str) -> bool:
    """Sets a run that was cut off to running again; False if the store has it no longer."""
    try:
        client.set_tag(run_id, _PROCESS, _this_process())  # first: nobody may take it for a dead one's
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "status", "running")
    except mlflow.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise
    return True


def end(client: mlflow.MlflowClient, run_id: str, status: str) -> None:
    """Closes a run: complete -> FINISHED, interrupted -> KILLED, anything else -> FAILED; the status is also a tag."""
    with _forgiving(f"run {run_id} stays open there"):
        client.set_tag(run_id, "status", status)
        client.set_terminated(run_id, _STATUS.get(status, "FAILED"))


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested dictionaries as ("encoder.bits", 8) pairs."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
