"""The frame around a sweep: checks before the first trial, the parent run, and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from fedsweep import environment, schema
from fedsweep.errors import UserError
from fedsweep.sweep import record as records
from fedsweep.sweep.record import Record
from fedsweep.sweep.table import Row, show
from fedsweep.tracking.run_folder import claim, refuse_used, write_atomically


@contextlib.contextmanager
def on_record(
    folder: str, swept: Sequence[str], points: Sequence[Sequence[str]], composed: Sequence[DictConfig]
) -> Iterator[None]:
    """Around the trials of a sweep.

    Every point's configuration and data and the tracker are checked before the folder is written. The parent run is
    made here once, and closed however the sweep ends. Ends with the table; then it is an error if a trial failed or
    none completed.

    Args:
      folder: the sweep's folder (hydra.sweep.dir).
      swept: the keys with more than one value, in the order of the command line.
      points: for each trial, all overrides of the command line with one value each.
      composed: for each trial, its composed configuration.
    """
    configs = _check(composed)
    place = Path(folder)
    trials = [_values(overrides, swept) for overrides in points]
    record = Record(
        space={key: list(dict.fromkeys(trial[key] for trial in trials)) for key in swept},
        points=trials,
        objectives=records.OBJECTIVES,
        fingerprint=_fingerprint(configs),
        mlflow_run_id=None,
    )
    _claim(place, record)
    tracker, client, status = configs[0].tracker, None, "failed"
    try:
        if isinstance(tracker, schema.MlflowTracker):
            from fedsweep.tracking import mlflow_store

            client, parent = mlflow_store.start_parent(tracker, place.name)
            record = dataclasses.replace(record, mlflow_run_id=parent)
            record.write(place)
        yield
        problem = _end(place, record)
        status = "failed" if problem else "complete"
    except KeyboardInterrupt:
        status = "interrupted"
        _end(place, record)
        raise
    finally:
        records.write_trials(place, record)
        hydras = place / "multirun.yaml"
        if hydras.exists():  # Hydra writes the tracker's URI as it was given
            write_atomically(hydras, environment.masked(hydras.read_text()))
        if client:
            mlflow_store.end(client, record.mlflow_run_id, status)
    if problem:
        raise UserError(problem)


def _check(composed: Sequence[DictConfig]) -> list[schema.Config]:
    """All points' configurations; raises for the first thing that would stop a trial, before any has begun."""
    from fedsweep import datasets, tracking

    configs = [schema.check(config) for config in composed]
    if any(config.tracker != configs[0].tracker for config in configs):
        raise UserError("tracker: cannot be swept; the trials of a sweep are children of one run")
    if len({environment.threads(config.runtime) for config in configs}) > 1:
        raise UserError("runtime.threads: cannot be swept; TensorFlow takes its threads once a process")
    clients: dict[str, int] = {}
    for config in configs:
        data = json.dumps([dataclasses.asdict(config.dataset), config.seed])
        if data not in clients:
            clients[data] = len(datasets.load(config.dataset, config.seed).client_ids)
        schema.check_cohort(config, clients[data])
    tracking.check(configs[0])
    return configs


def _claim(place: Path, record: Record) -> None:
    """Takes the folder for this sweep alone; nothing that it holds is written over."""
    refuse_used(place, ("trials.csv", "multirun.yaml", *map(str, range(len(record.points)))))
    place.mkdir(parents=True, exist_ok=True)
    claim(place / records.SWEEP, record.as_yaml())


def _values(overrides: Sequence[str], swept: Sequence[str]) -> dict[str, str]:
    """The swept keys of one point with their values."""
    pairs = (override.partition("=") for override in overrides)
    return {key: value for key, _, value in pairs if key in swept}


def _fingerprint(configs: Sequence[schema.Config]) -> str:
    """A digest that changes when any trial's configuration does."""
    text = json.dumps([dataclasses.asdict(config) for config in configs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _end(place: Path, record: Record) -> str | None:
    """Shows the table; the line to fail with, if something is to be mended."""
    found = records.results(place, record)
    if found:
        show([Row({"trial": str(trial), **record.points[trial]}, result) for trial, result in found.items()])
        print(f"Files: {place / 'trials.csv'}")
    failed = [trial for trial, result in found.items() if result["status"] == "failed"]
    if failed:
        return f"{len(failed)} of {len(record.points)} trials failed; trial {failed[0]}: {found[failed[0]]['error']}"
    if missing := len(record.points) - len(found):
        return f"{missing} of {len(record.points)} trials left no result in {place}"
    if not any(result["status"] == "complete" for result in found.values()):
        return f"no trial completed; trial 0: {found[0]['status']}, {found[0]['error']}"
    return None
