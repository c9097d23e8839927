"""Going on with a sweep: which one, and whether it is the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Set
from pathlib import Path

from fedsweep import nested, schema, secrets, store
from fedsweep.errors import DamagedFile, UserError
from fedsweep.sweep.record import SWEEP, Record, newest
from fedsweep.tracking.run_folder import read_config


def find(wanted: str, beside: Path) -> Path:
    """The folder of the sweep to go on with: a path, or `latest` of those beside the folder that a new one would get.

    Raises:
      UserError: there is none.
    """
    if wanted != "latest":
        folder = Path(wanted)
        if not (folder / SWEEP).exists():
            raise UserError(
                f"sweep.resume={wanted}: {folder / SWEEP} is not there; name the folder of a sweep, or latest"
            )
        return folder
    latest = newest(beside.parent)
    if latest is None:
        raise UserError(
            f"sweep.resume=latest: {beside.parent} holds no sweep; if nothing had begun, leave sweep.resume out"
        )
    return latest


def tell_other_store(folder: Path, tracker: schema.Tracker) -> None:
    """Says so if the sweep's runs so far are in another MLflow store: tracker.uri or its variable has changed since."""
    path = next(iter(sorted(folder.glob("**/config.yaml"))), None)
    if not (path and tracker.mlflow):
        return
    try:
        before = read_config(path.parent, ["tracker"])["tracker"]
    except DamagedFile:  # it is written anew when its run goes on
        return
    earlier = before.get("uri") if before.get("mlflow") else tracker.uri
    if earlier != secrets.masked_tree(tracker.uri):
        was = earlier or "the default (multirun_outputs/mlflow.db)"
        print(f"MLflow: the runs so far are in another store, {was}; from now on {store.named(tracker.uri)}")


def merge(old: Record, new: Record, extend: bool, follows: Set[str] = frozenset()) -> Record:
    """The record to go on with: `old`, or with `extend` the union of both spaces, old trials first.

    `follows`: keys that are interpolations of swept ones, so that they differ where the first points do.

    Raises:
      UserError: they are not the same sweep; the line says what differs.
    """
    differences = list(_differences(old, new, follows))
    added = [line for key, line in differences if key in ("space", "n_trials")]
    other = [line for key, line in differences if key not in ("space", "n_trials")]
    if other:
        raise UserError(f"sweep.resume: {'; '.join(other)}; run it as it was, or start another sweep")
    if added and not extend:
        raise UserError(f"sweep.resume: {'; '.join(added)}; run it as it was, or add sweep.extend=true")
    for point, digest in new.digests.items():
        if old.digests.get(point, digest) != digest:
            where = f"the configuration of {point}" if point else "the configuration"
            raise UserError(f"sweep.resume: {where} was another; an override or a file in conf has changed since")
    if not added:
        return old
    grids = any(set(point) != set(record.space) for record in (old, new) for point in record.points or ())
    if set(old.space) != set(new.space) and not grids:
        raise UserError(f"sweep.extend: {'; '.join(added)}; only values can be added to the keys that are swept")
    if (old.points is None) != (new.points is None):
        raise UserError(
            "sweep.extend: a space that was enumerated stays so, and one that was not; see sweep.grid_limit"
        )
    if new.points is None:
        if old.space != new.space:
            raise UserError(f"sweep.extend: {'; '.join(added)}; a sampler's space stays as it is, n_trials can grow")
        if new.n_trials < old.n_trials:
            raise UserError(f"sweep.n_trials={new.n_trials}: must be at least {old.n_trials}, as before")
        return dataclasses.replace(old, n_trials=new.n_trials)
    points = old.points + [point for point in new.points if point not in old.points]
    keys = dict.fromkeys([*old.space, *new.space])
    space = {key: list(dict.fromkeys([*old.space.get(key, []), *new.space.get(key, [])])) for key in keys}
    return dataclasses.replace(
        old, space=space, points=points, n_trials=len(points), digests={**old.digests, **new.digests}
    )


def _differences(old: Record, new: Record, follows: Set[str]) -> Iterator[tuple[str, str]]:
    """(what differs, a line that says how)"""
    same_first = next(iter(old.digests), None) == next(iter(new.digests), None)
    swept = (
        set() if same_first else {key.lstrip("+") for key in {*old.space, *new.space}} | follows
    )  # another first point
    for part, prefix in (("config", ""), ("sampling", "sweep.")):
        then, now = (dict(nested.items(getattr(record, part), prefix)) for record in (old, new))
        for key in sorted({*then, *now}):
            if key not in swept and key.partition(".")[0] not in swept and then.get(key) != now.get(key):
                yield part, f"{key} was {then.get(key)}, is {now.get(key)}"
    for part in ("objectives", "replicates", "space", "n_trials"):
        then, now = getattr(old, part), getattr(new, part)
        if part == "objectives":  # their order is the study's
            then, now = (", ".join(f"{way} {metric}" for metric, way in each.items()) for each in (then, now))
        if then != now:
            yield part, f"{part} was {_show(then)}, is {_show(now)}"


def _show(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={','.join(v) if isinstance(v, list) else v}" for key, v in value.items()) or "one point"
    return str(value)
