"""The frame around a sweep: checks before the first trial, the parent run, and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from fedsweep import schema
from fedsweep.errors import UserError
from fedsweep.sweep import record as records
from fedsweep.sweep.record import Record
from fedsweep.sweep.table import Row, show


@contextlib.contextmanager
def on_record(
    folder: str, swept: Sequence[str], points: Sequence[Sequence[str]], composed: Sequence[DictConfig]
) -> Iterator[None]:
    """Around the trials of a sweep.

    Every point's configuration, data and tracker are checked before the folder is written. The parent run is made here
    once, and closed however the sweep ends. Ends with the table; a trial that failed is an error then.

    Args:
      folder: the sweep's folder (hydra.sweep.dir).
      swept: the keys with more than one value, in the order of the command line.
      points: for each trial, all overrides of the command line with one value each.
      composed: for each trial, its composed configuration.
    """
    place = Path(folder)
    configs = _check(place, composed)
    trials = [
        {key: value for key, _, value in (point.partition("=") for point in overrides) if key in swept}
        for overrides in points
    ]
    first = configs[0].tracker
    client, parent = None, None
    if isinstance(first, schema.MlflowTracker):
        from fedsweep.tracking import mlflow_store

        client, parent = mlflow_store.start_parent(first, place.name)
    status = "failed"
    try:
        place.mkdir(parents=True, exist_ok=True)
        record = Record(
            space={key: list(dict.fromkeys(trial[key] for trial in trials)) for key in swept},
            points=trials,
            objectives=records.OBJECTIVES,
            fingerprint=_fingerprint(configs),
            mlflow_run_id=parent,
        )
        record.write(place)
        yield
        failed = _end(place, record)
        status = "failed" if failed else "complete"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        if client:
            mlflow_store.end(client, parent, status)
    if failed:
        raise UserError(failed)


def _check(place: Path, composed: Sequence[DictConfig]) -> list[schema.Config]:
    """All points' configurations; raises for the first thing that would stop a trial, before any has begun."""
    from fedsweep import datasets

    if (place / "sweep.yaml").exists():
        raise UserError(f"{place}: already holds a sweep; choose another folder (hydra.sweep.dir)")
    configs = [schema.check(config) for config in composed]
    loaded: dict[str, int] = {}
    for config in configs:
        data = json.dumps([dataclasses.asdict(config.dataset), config.seed])
        if data not in loaded:
            loaded[data] = len(datasets.load(config.dataset, config.seed).client_ids)
        schema.check_cohort(config, loaded[data])
    return configs


def _fingerprint(configs: Sequence[schema.Config]) -> str:
    """A digest that changes when any trial's configuration does."""
    text = json.dumps([dataclasses.asdict(config) for config in configs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _end(place: Path, record: Record) -> str | None:
    """Shows the table; the line to fail with if trials failed."""
    found = records.results(place, record)
    show([Row({"trial": str(trial), **record.points[trial]}, result) for trial, result in found.items()])
    print(f"Files: {place / 'trials.csv'}")
    failed = [trial for trial, result in found.items() if result["status"] == "failed"]
    if not failed:
        return None
    return f"{len(failed)} of {len(record.points)} trials failed; trial {failed[0]}: {found[failed[0]]['error']}"
