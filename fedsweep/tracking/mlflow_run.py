"""What a run and a sweep look like in MLflow: tags, parameters, metrics, data set, artifacts.

Trackers write it while a run goes on (`mlflow_tracker`), `sync` from the files of a run that is over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import mlflow
import sqlalchemy.exc
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

from fedsweep import nested, shown
from fedsweep.files import as_json
from fedsweep.secrets import masked_tree
from fedsweep.tracking.base import About, Place, metrics
from fedsweep.tracking.mlflow_store import PROCESS, this_process
from fedsweep.tracking.run_folder import RoundRow

_PARAMS_A_BATCH, _METRICS_A_BATCH = 100, 1000  # the most that MLflow takes at once
_PLANNED = ("clients", "messages", "float32_uplink_bits", "float32_downlink_bits", "uplink_bits", "downlink_bits")
_MOST_LISTED = 20
FOLDER = "fedsweep.folder"  # the tag with the address of a single run's folder: no quotes are in it
FILES = ("config.yaml", "plan.json")  # a run's artifacts


def create(
    client: mlflow.MlflowClient, experiment: str, settings: Mapping, about: About, start_time: int | None = None
) -> str:
    """Makes a run with its tags; its id.

    Args:
      client: of the store.
      experiment: its id.
      settings: the run's whole configuration, as config.yaml has it.
      about: the run.
      start_time: milliseconds since 1970; None: now.
    """
    tags = {
        "encoder": settings["encoder"]["name"],
        "dataset": settings["dataset"]["name"],
        "status": "running",
        PROCESS: this_process(),
        "mlflow.note.content": shown.in_code(" ".join(about.environment["command"])),
        **_commit(about.environment["git_commit"]),
        **origin_tags(about),
    }
    return client.create_run(experiment, start_time, tags, about.name).info.run_id


def origin_tags(about: About) -> dict[str, str]:
    """Where a run belongs: its place in a sweep, or its own folder."""
    return place_tags(about.sweep) if about.sweep else {FOLDER: about.folder.resolve().as_uri()}


def place_tags(place: Place) -> dict[str, str]:
    """Where in a sweep a run belongs."""
    point = {"trial": str(place.trial), "replicate": str(place.replicate), "point": json.dumps(place.point)}
    parent = {"mlflow.parentRunId": place.parent} if place.parent else {}
    return _fitting_tags({"sweep": place.sweep, **point, **parent})


def params(settings: Mapping, plan: Mapping) -> dict[str, str]:
    """The flattened configuration (the parent has what is the sweep's) and the plan's bits."""
    own = {key: value for key, value in settings.items() if key != "sweep"}
    own["plan"] = {name: plan[name] for name in _PLANNED if name in plan}
    return {key: _fitting(str(value), MAX_PARAM_VAL_LENGTH) for key, value in nested.items(masked_tree(own))}


def _fitting(text: str, limit: int) -> str:
    """As much as MLflow keeps, so that what is there can be compared with what should be."""
    return text[:limit]


def _fitting_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: _fitting(value, MAX_TAG_VAL_LENGTH) for key, value in tags.items()}


def log_params(client: mlflow.MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    found = [Param(*item) for item in values.items()]
    for first in range(0, len(found), _PARAMS_A_BATCH):
        client.log_batch(run_id, params=found[first : first + _PARAMS_A_BATCH])


def round_metrics(row: RoundRow, milliseconds: int) -> list[Metric]:
    """What is logged of a round, at step = round; its time is in milliseconds since 1970."""
    # MLflow's pages have no logarithmic axes.
    logs = {f"bits_log10/{way}": math.log10(getattr(row, f"{way}_bits")) for way in ("uplink", "downlink", "total")}
    return [Metric(key, value, milliseconds, row.round) for key, value in (logs | metrics(row)).items()]


def batches(rounds: Iterable[Sequence[Metric]]) -> Iterator[list[Sequence[Metric]]]:
    """Rounds, each as a whole, in groups that MLflow takes at once."""
    batch: list[Sequence[Metric]] = []
    for one in rounds:
        if batch and sum(map(len, batch)) + len(one) > _METRICS_A_BATCH:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def log_rounds(client: mlflow.MlflowClient, run_id: str, batch: Iterable[Sequence[Metric]]) -> None:
    client.log_batch(run_id, metrics=[metric for one in batch for metric in one])


def attach(client: mlflow.MlflowClient, run_id: str, about: About) -> None:
    """A run's artifacts."""
    client.log_artifact(run_id, str(about.folder / "config.yaml"))
    client.log_text(run_id, as_json(about.plan), "plan.json")


def attach_data(client: mlflow.MlflowClient, run_id: str, settings: Mapping, environment: Mapping) -> None:
    """The data set that a run has used."""
    data = environment["data"]
    found = Dataset(
        name=settings["dataset"]["name"],
        digest=data["sha256"][:16],
        source_type="local",
        source=json.dumps({"path": data["source"]}),
        profile=json.dumps({"description": data["description"], "sha256": data["sha256"]}),
    )
    inputs = [DatasetInput(found, tags=[InputTag("mlflow.data.context", "training and test")])]
    try:
        client.log_inputs(run_id, datasets=inputs)
    # MLflow looks for the data set, then adds it: a run that starts at the same time can do so in between.
    except (mlflow.MlflowException, sqlalchemy.exc.SQLAlchemyError):
        client.log_inputs(run_id, datasets=inputs)


def sweep_tags(sweep: str, record: Mapping) -> dict[str, str]:
    """A parent run's tags, as sweep.yaml (`record`) has it now."""
    swept = {group: _swept(record, group) for group in ("encoder", "dataset")}
    return _fitting_tags({"sweep": sweep, "space": json.dumps(list(record["space"])), **swept})


def create_sweep(
    client: mlflow.MlflowClient,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    commit: str | None,
    start_time: int | None = None,
) -> str:
    """Makes the parent run of a sweep; its id. `start_time`: milliseconds since 1970; None: now."""
    started = {"status": "running", PROCESS: this_process(), **_commit(commit)}
    return client.create_run(experiment, start_time, {**tags, **started}, name).info.run_id


def description(record: Mapping, command: Sequence[str]) -> str:
    """What a person reads above the runs of a sweep, in Markdown. `command`: the arguments that started it."""
    space = [f"| `{key}` | {shown.in_markdown(_listed(values))} |" for key, values in record["space"].items()]
    aims = ", ".join(f"{direction} {metric}" for metric, direction in record["objectives"].items())
    size = f"{record['n_trials']} trials, {record['replicates']} seeds each; {aims}."
    table = ["| swept | values |", "|---|---|", *space] if space else []
    run = " ".join(["python -m fedsweep", *masked_tree(list(command))])
    return "\n".join([shown.in_code(run), "", size, "", *table])


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
