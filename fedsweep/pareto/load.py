"""Reads sweeps into tables: from their folders, or from the MLflow store that tracked them. Both give the same numbers.

What is read is what tracking wrote: trials.csv, sweep.yaml and the runs' files, or parent, children, their tags, params
and metrics. Complete runs count; the others are told of (`Sweep.left_out`).
"""

from __future__ import annotations

import collections
import functools
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedsweep import nested, shown
from fedsweep.errors import DamagedFile, UserError
from fedsweep.sweep.record import REBUILT, SWEEP, TRIALS, newest, read_sweep, read_trials, same_point
from fedsweep.tracking.run_folder import AGAIN, RESULT, check_end, read_config, read_result, read_rounds
from fedsweep.tracking.run_folder import ROUNDS as ROUNDS_FILE

if TYPE_CHECKING:
    import mlflow

BITS = ("uplink_bits", "downlink_bits", "total_bits")
METRICS = (
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "test_accuracy_p10",  # over the clients of the test set
    "test_accuracy_p50",
    "test_accuracy_p90",
    "validation_loss",
    "validation_accuracy",
)
# How MLflow calls the columns of rounds.csv.
IN_MLFLOW = {
    **{column: column.replace("_", "/", 1) for column in METRICS},
    **{column: f"bits/{column.removesuffix('_bits')}" for column in BITS},
}
ROUNDS = ("trial", "replicate", "round", *METRICS, *BITS)
_RUN_ID = re.compile(r"(?:runs:/)?([0-9a-f]{32})")


@dataclass(frozen=True)
class Float32:
    """What a trial would have sent without encoding, over the whole run, all clients together, in bits (means over its
    replicates: clients that drop out are drawn from the seed)."""

    uplink: float
    downlink: float

    def of(self, direction: str) -> float:
        return self.uplink + self.downlink if direction == "total" else getattr(self, direction)


@dataclass(frozen=True)
class Sweep:
    """The complete runs of one sweep."""

    name: str
    keys: tuple[str, ...]  # swept
    points: Mapping[int, Mapping[str, str]]  # trial -> swept key -> value, of trials with a complete run
    float32: Mapping[int, Float32]  # by trial
    seeds: Mapping[tuple[int, int], int]  # (trial, replicate) -> the run's seed
    rounds: pd.DataFrame  # columns ROUNDS; every round of every complete run; NaN where nothing was evaluated
    settings: Callable[[int], Mapping[str, str]]  # trial -> its whole configuration, "encoder.bits" -> "4"
    plan: Callable[[int], dict]  # trial -> its plan (`Plan.as_dict`)
    run_ids: Sequence[str]  # MLflow's, of the complete runs, the parent's first; none where another tracker was used
    left_out: Mapping[str, int] = field(default_factory=dict)  # status -> runs

    @property
    def missing(self) -> str:
        """What is left out, in words."""
        return ", ".join(f"{number} {status}" for status, number in sorted(self.left_out.items()))

    def value(self, trial: int, key: str) -> str:
        """What a trial has for a swept key, another key of the configuration, or a group ("encoder")."""
        if key in self.points[trial]:
            return self.points[trial][key]
        settings = self.settings(trial)
        for name in (key, f"{key}.name"):
            if name in settings:
                return shown.printable(settings[name])
        if key in self.keys:  # of another one of the sweep's grids
            return ""
        raise UserError(f"{key}: {self.name} has no such key; it sweeps {', '.join(self.keys) or 'nothing'}")


def load(where: str, tracking_uri: str | None = None, metrics: Sequence[str] = METRICS) -> Sweep:
    """The sweep that `where` names: a folder, `latest` of multirun_outputs, or the id of its parent run in MLflow.

    Args:
      where: see above.
      tracking_uri: of the MLflow store; None: MLFLOW_TRACKING_URI, else multirun_outputs/mlflow.db.
      metrics: of METRICS, those that are needed; in MLflow each takes a query a run.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    if where == "latest":
        return from_folder(latest(Path("multirun_outputs")))
    if Path(where).is_dir():
        return from_folder(Path(where))
    if run_id := _RUN_ID.fullmatch(where):
        return from_mlflow(run_id[1], tracking_uri, metrics)
    raise UserError(f"{where}: is no sweep; name a sweep's folder, latest, or the id of its parent run in MLflow")


def latest(base: Path) -> Path:
    """The sweep in a folder of sweeps that began, or was extended, last. Raises `UserError` if there is none."""
    folder = newest(base)
    if folder is None:
        raise UserError(
            f"latest: {base.resolve()} holds no sweep; run one (python -m fedsweep -m ...), or name a folder"
        )
    return folder


def from_folder(folder: Path) -> Sweep:
    """The sweep in a folder; it may still be running."""
    try:
        record = read_sweep(folder / SWEEP)
        keys = tuple(key.lstrip("+") for key in record["space"])
        rows = read_trials(folder / TRIALS, keys)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: is not there; a sweep's folder has {SWEEP} and {TRIALS}") from error
    base, replicates = _flat(record["config"]), record["replicates"]
    trials = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["trial", "status", *keys], dtype=str)
    complete = trials[trials.status == "complete"]

    def place(row: Mapping[str, str]) -> Path:
        return folder / (row["trial"] if replicates == 1 else f"{row['trial']}/{row['replicate']}")

    places = {(int(row["trial"]), int(row["replicate"])): place(row) for row in rows if row["status"] == "complete"}
    results = _results(folder, record, {place(row): row for row in rows})
    first: dict[int, Path] = {}
    for (trial, _), place in places.items():
        first.setdefault(trial, place)
    points = {
        int(trial): {key: value for key, value in zip(keys, values, strict=True) if value}
        for trial, *values in complete.drop_duplicates("trial")[["trial", *keys]].itertuples(index=False)
    }
    plans = {trial: results[place] for trial, place in first.items()}
    # Where clients drop out, each replicate has sent another number of messages.
    drops = any(_sent(result) < _received(result) for result in results.values())
    runs = {run: results[path] for run, path in places.items()} if drops else {(k, 0): r for k, r in plans.items()}
    # A swept group (encoder=uniform,eden) changes other keys than its own, data sets are compared by their values, not
    # by how they were written (1 and 1.0), and each of several grids has keys of its own: then a trial's own file has
    # to be asked.
    groups = any(f"{key}.name" in base or key.startswith("dataset.") for key in keys)
    own = groups or any(set(point) != set(keys) for point in points.values())

    def settings(trial: int) -> Mapping[str, str]:
        if not own:
            return {**base, **points[trial]}
        return _flat(read_config(first[trial], ["seed"]))

    seeds = {trial: int(point.get("seed") or settings(trial)["seed"]) for trial, point in points.items()}
    return Sweep(
        name=folder.resolve().name,
        keys=keys,
        points=points,
        float32=_means((trial, _float32(run)) for (trial, _), run in runs.items()),
        seeds={(trial, replicate): seeds[trial] + replicate for trial, replicate in places},
        rounds=_rounds(places, results),
        settings=settings,
        plan=lambda trial: plans[trial]["plan"],
        run_ids=[run_id for run_id in (record["mlflow_run_id"], *complete.mlflow_run_id) if run_id],
        left_out=_counted([*trials.status, *["not in trials.csv"] * _rowless(folder, record, rows)]),
    )


def _results(folder: Path, record: Mapping, rows: Mapping[Path, Mapping[str, str]]) -> dict[Path, dict]:
    """The results of the complete runs, by their folders.

    Raises:
      DamagedFile: a result is not what was written, or trials.csv says something else.
    """
    found: dict[Path, dict] = {}
    for place, row in rows.items():
        if row["status"] in _ELSEWHERE:
            continue
        result = read_result(place)
        if result is None or result["status"] != row["status"]:
            status = "not there" if result is None else result["status"]
            raise _contradicted(place / RESULT, f"cannot be read as {row['status']}: it is {status}", folder)
        if row["status"] == "complete":
            _check_complete(place / RESULT, result)
            for name in ("test_accuracy", *BITS):
                if row[name] != ("" if result.get(name) is None else str(result[name])):
                    raise _contradicted(place / RESULT, f"{name} is {result.get(name)}, not {row[name]}", folder)
            if not same_point(row, result.get("point") or row, record["space"]):
                raise _contradicted(place / RESULT, f"its values are {result['point']}", folder)
            found[place] = result
    points = dict(enumerate(record.get("points") or ()))  # of an enumerated space
    for row in rows.values() if points else ():
        point = points.get(int(row["trial"]))
        if point is None or not same_point(row, point, record["space"]):
            raise DamagedFile(folder / TRIALS, f"the values of trial {row['trial']} are not those of {SWEEP}", REBUILT)
    return found


# What a row says of them is known to the sweep alone; its process may have been killed.
_ELSEWHERE = ("running", "interrupted", "duplicate")


def _rowless(folder: Path, record: Mapping, rows: Iterable[Mapping[str, str]]) -> int:
    """The number of complete runs that trials.csv does not know: not yet, where a sweep goes on and draws again."""
    known = {row["trial"] for row in rows}
    runs = (
        folder / path.name / (str(replicate) if record["replicates"] > 1 else "")
        for path in folder.iterdir()
        if path.name.isdecimal() and path.name not in known
        for replicate in range(record["replicates"])
    )
    return sum((read_result(run) or {}).get("status") == "complete" for run in runs)


def _contradicted(path: Path, what: str, folder: Path) -> DamagedFile:
    return DamagedFile(path, f"{what}, as {folder / TRIALS} says", REBUILT)


def _check_complete(path: Path, result: Mapping) -> None:
    """A complete run has rounds and a plan."""
    plan = result.get("plan") or {}
    try:
        counts = [plan["clients"], plan["float32_uplink_bits"], plan["float32_downlink_bits"], result["rounds"]]
        counts += [tensor["bits"] for way in ("uplink", "downlink") for tensor in plan[way]]
        if not all(type(count) is int and count >= 0 for count in (*counts, plan.get("messages", 0))):
            raise ValueError("its plan or rounds are no whole numbers")
    except (KeyError, TypeError, ValueError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise DamagedFile(path, f"cannot be read ({what})", AGAIN) from error


def _received(result: Mapping) -> int:
    """Models that clients received in a run."""
    return result["plan"]["clients"] * result["rounds"]


def _sent(result: Mapping) -> int:
    """Updates that they sent; a plan of an earlier version knows of no client that drops out."""
    return result["plan"].get("messages", _received(result)) - result.get("dropped_updates", 0)


def _float32(result: Mapping) -> Float32:
    """What one run would have sent."""
    plan = result["plan"]
    up, down = plan["float32_uplink_bits"], plan["float32_downlink_bits"]
    return Float32(up * _sent(result), down * _received(result))


def _means(found: Iterable[tuple[int, Float32]]) -> dict[int, Float32]:
    """By trial, over its replicates."""
    runs: dict[int, list[Float32]] = collections.defaultdict(list)
    for trial, float32 in found:
        runs[trial].append(float32)
    return {
        trial: Float32(sum(run.uplink for run in own) / len(own), sum(run.downlink for run in own) / len(own))
        for trial, own in runs.items()
    }


def _rounds(places: Mapping[tuple[int, int], Path], results: Mapping[Path, Mapping]) -> pd.DataFrame:
    """All rounds.csv as one table. Joined as text: parsing ten thousand small files takes twenty times as long."""
    by_header: dict[str, list[str]] = collections.defaultdict(list)  # some have columns more than others
    for (trial, replicate), place in places.items():
        try:
            header, *lines = (place / ROUNDS_FILE).read_bytes().decode().splitlines()
        except FileNotFoundError:
            raise UserError(f"{place / ROUNDS_FILE}: is not there; {AGAIN}") from None
        except ValueError as error:
            raise DamagedFile(place / ROUNDS_FILE, f"cannot be read ({error})", AGAIN) from error
        by_header[header] += [f"{trial},{replicate},{line}" for line in lines]
    try:
        tables = [
            pd.read_csv(io.StringIO("\n".join([f"trial,replicate,{header}", *lines])), float_precision="round_trip")
            for header, lines in by_header.items()
        ]
        rounds = _ordered(pd.concat(tables) if tables else pd.DataFrame())
        _check_rounds(rounds, places, results)
    except (ValueError, TypeError, pd.errors.ParserError) as error:
        for place in places.values():  # whose fault is it?
            check_end(place / RESULT, results[place], read_rounds(place / ROUNDS_FILE))
        place = next(iter(places.values()))
        raise DamagedFile(place / ROUNDS_FILE, f"cannot be read beside the sweep's others ({error})", AGAIN) from error
    return rounds


def _check_rounds(rounds: pd.DataFrame, places: Mapping, results: Mapping[Path, Mapping]) -> None:
    """Raises ValueError unless every run's rounds are 1, 2, 3, ..., finite, and end with its result."""
    runs = rounds.groupby(["trial", "replicate"])
    if not (rounds["round"] == runs.cumcount() + 1).all() or runs.ngroups != len(places):
        raise ValueError("rounds are missing")
    if not np.isfinite(rounds[["train_loss", "train_accuracy", *BITS]].to_numpy()).all():
        raise ValueError("not finite")
    if (runs[list(BITS)].diff() < 0).any(axis=None) or (rounds[list(BITS)] < 0).any(axis=None):
        raise ValueError("bits become fewer")
    ends = runs[["round", *BITS, "test_accuracy"]].last()  # the last that is not NaN
    names = ("rounds", *BITS, "test_accuracy")
    told = [tuple(results[place].get(name) for name in names) for _, place in sorted(places.items())]
    if list(ends.itertuples(index=False, name=None)) != told:
        raise ValueError("another end")


def _ordered(rounds: pd.DataFrame) -> pd.DataFrame:
    types = {**dict.fromkeys(("trial", "replicate", "round", *BITS), "int64"), **dict.fromkeys(METRICS, "float64")}
    return rounds.reindex(columns=ROUNDS).astype(types).sort_values(["trial", "replicate", "round"], ignore_index=True)


def _counted(statuses: Iterable[str]) -> dict[str, int]:
    """What is left out; a duplicate is there, as the trial that it is a duplicate of."""
    return {status: n for status, n in collections.Counter(statuses).items() if status not in ("complete", "duplicate")}


def _flat(tree: Mapping) -> dict[str, str]:
    """A configuration as "encoder.bits" -> "4": what MLflow's params say."""
    return {key: str(value) for key, value in nested.items(tree)}


def from_mlflow(run_id: str, tracking_uri: str | None, metrics: Sequence[str] = METRICS) -> Sweep:
    """The sweep whose parent run has this id, from the store alone."""
    from fedsweep.tracking import mlflow_store

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    opened = functools.partial(
        mlflow_store.reading, tracking_uri, "--tracking-uri", f"--tracking-uri names the store that has {run_id}"
    )
    with opened() as client:
        parent = client.get_run(run_id)
        children = list(mlflow_store.children(client, parent.info.experiment_id, run_id))
        if "sweep" not in parent.data.tags or "space" not in parent.data.tags:
            raise UserError(f"{run_id}: is no parent run of a sweep; name that one, or the sweep's folder")
        statuses = {run.info.run_id: _status(run) for run in children}
        complete: dict[tuple[int, int], mlflow.entities.Run] = {}
        frames, float32 = [], {}
        for place, run in _placed(run_id, [run for run in children if statuses[run.info.run_id] == "complete"]).items():
            rounds = _history(client, run, metrics)
            if rounds is None:
                statuses[run.info.run_id] = _LACKING
            else:
                complete[place] = run
                float32[place] = _float32_of_run(client, run)
                frames.append(rounds.assign(trial=place[0], replicate=place[1]))
    first: dict[int, mlflow.entities.Run] = {}
    for trial, replicate in sorted(complete):
        first.setdefault(trial, complete[trial, replicate])

    def plan(trial: int) -> dict:
        # A folder of our own: what a server answers would stay in one of MLflow's.
        with opened() as client, tempfile.TemporaryDirectory() as place:
            return json.loads(Path(client.download_artifacts(first[trial].info.run_id, "plan.json", place)).read_text())

    return Sweep(
        name=parent.data.tags["sweep"],
        keys=tuple(key.lstrip("+") for key in _parsed_tag(parent, "space", list)),
        points={
            trial: {key.lstrip("+"): value for key, value in _parsed_tag(run, "point", dict).items()}
            for trial, run in first.items()
        },
        float32=_means((trial, found) for (trial, _), found in float32.items()),
        seeds={place: int(run.data.params["seed"]) for place, run in complete.items()},
        rounds=_ordered(pd.concat(frames) if frames else pd.DataFrame()),
        settings=lambda trial: first[trial].data.params,
        plan=plan,
        run_ids=[run_id, *(complete[place].info.run_id for place in sorted(complete))],
        left_out=_counted(statuses.values()),
    )


def _placed(parent: str, runs: Iterable[mlflow.entities.Run]) -> dict[tuple[int, int], mlflow.entities.Run]:
    """The runs by trial and replicate. Raises `UserError` where two are at one place: which one counts?"""
    found: dict[tuple[int, int], mlflow.entities.Run] = {}
    for run in runs:
        trial, replicate = (run.data.tags.get(key, "") for key in ("trial", "replicate"))
        if not (trial.isdecimal() and replicate.isdecimal()):
            raise UserError(f"{run.info.run_id}: its tags trial and replicate are no numbers; {_MENDS}")
        place = int(trial), int(replicate)
        if place in found:
            raise UserError(
                f"{parent}: MLflow has two complete runs of trial {trial}, replicate {replicate}"
                f" ({found[place].info.run_id} and {run.info.run_id}); {_MENDS}"
            )
        found[place] = run
    return found


def _parsed_tag(run: mlflow.entities.Run, tag: str, kind: type) -> Any:
    """What a tag holds as JSON."""
    try:
        content = json.loads(run.data.tags.get(tag, ""))
        if not isinstance(content, kind) or not all(isinstance(text, str) for text in content):
            raise ValueError("of another kind")
    except ValueError as error:
        raise UserError(f"{run.info.run_id}: its tag {tag} is not what was written ({error}); {_MENDS}") from error
    return content


def _history(client: mlflow.MlflowClient, run: mlflow.entities.Run, metrics: Sequence[str]) -> pd.DataFrame | None:
    """The rounds of a complete run, NaN where nothing was evaluated; None if MLflow lacks some of them."""
    try:
        params = {key: int(run.data.params[key]) for key in ("rounds", "evaluate_every", "seed")}
        _float32_of_params(run.data.params)
    except (KeyError, ValueError):
        return None
    every = range(1, params["rounds"] + 1)
    evaluated = [number for number in every if number % params["evaluate_every"] == 0 or number == every[-1]]
    columns = {}
    for column in (*BITS, *metrics):
        always = column in BITS or column.startswith("train_")
        if not always and IN_MLFLOW[column] not in run.data.metrics and column not in ("test_loss", "test_accuracy"):
            continue  # a run without a validation set, say
        history = client.get_metric_history(run.info.run_id, IN_MLFLOW[column])
        if sorted(metric.step for metric in history) != list(every if always else evaluated):
            return None
        columns[column] = pd.Series({metric.step: metric.value for metric in history})
    return pd.DataFrame(columns).rename_axis("round").reset_index()


_LACKING = "not all in MLflow"
_MENDS = "python -m fedsweep.tracking.sync FOLDER, with the sweep's folder, makes MLflow what the folder says"


def _status(run: mlflow.entities.Run) -> str:
    """A run's status; one whose last rounds MLflow did not get must not be taken for a whole one."""
    if "undelivered_rounds" in run.data.tags:
        return _LACKING
    return run.data.tags.get("status", run.info.status.lower())


def _float32_of_run(client: mlflow.MlflowClient, run: mlflow.entities.Run) -> Float32:
    dropped = 0
    if run.data.params.get("on_bad_update") == "drop":
        history = client.get_metric_history(run.info.run_id, "train/bad_updates")
        dropped = int(sum(metric.value for metric in history))
    return _float32_of_params(run.data.params, dropped)


def _float32_of_params(params: Mapping[str, str], dropped: int = 0) -> Float32:
    names = ("clients", "messages", "float32_uplink_bits", "float32_downlink_bits")
    plan = {name: int(params[f"plan.{name}"]) for name in names if f"plan.{name}" in params}
    return _float32({"plan": plan, "rounds": int(params["rounds"]), "dropped_updates": dropped})
