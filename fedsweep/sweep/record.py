"""A sweep on disk: sweep.yaml says what it is, its numbered folders hold the runs, trials.csv what became of them.

Both files can be read by any process at any time: they are written by rename.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from fedsweep import shown
from fedsweep.errors import DamagedFile, UserError
from fedsweep.files import read_text, sha256, write_atomically
from fedsweep.pareto.front import on_front
from fedsweep.secrets import masked
from fedsweep.sweep.space import Point
from fedsweep.tracking.run_folder import STATUSES, is_over, read_result, trusted_result, write_result

_BEFORE_KEYS, _AFTER_RESULTS = ("trial", "replicate", "status"), ("on_front", "mlflow_run_id", "error")
_RESULT_COLUMNS = ("test_accuracy", "uplink_bits", "downlink_bits", "total_bits")
_GRAVEST_FIRST = ("failed", "diverged", "interrupted", "running", "pruned", "complete")
SWEEP, TRIALS = "sweep.yaml", "trials.csv"


@dataclass(frozen=True)
class Record:
    """sweep.yaml."""

    space: dict[str, list[str] | str]  # each swept key with its values, or with what they lie between
    points: list[Point] | None  # of an enumerated space, in the order of the trials; None: a sampler draws them
    n_trials: int
    replicates: int
    objectives: dict[str, str]
    sampling: dict  # the sampler, the pruner, and what else the trials depend on
    config: dict  # of the first point; what a resumed sweep is compared with
    digests: dict[str, str]  # of the configuration of each point (of a sampled space: of each that was checked)
    mlflow_run_id: str | None  # the parent run
    fingerprint: str = ""  # of everything above but the tracker's run

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", _fingerprint(dataclasses.asdict(self)))

    def write(self, folder: Path) -> None:
        write_atomically(folder / SWEEP, self.as_yaml())

    def as_yaml(self) -> str:
        return yaml.dump(dataclasses.asdict(self), Dumper=yaml.CSafeDumper, sort_keys=False)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """What `write` wrote.

        Raises:
          UserError: it is not there.
          DamagedFile: it is not what was written, or of another version.
        """
        path = folder / SWEEP
        try:
            return cls(**read_sweep(path))
        except FileNotFoundError:
            raise UserError(f"{path}: is not there; sweeps need hydra/sweeper=fedsweep, the default") from None
        except TypeError as error:
            raise DamagedFile(path, f"is no sweep of this version of fedsweep ({error})", _ANOTHER) from error

    def run_folder(self, trial: int, replicate: int) -> str:
        """Where a run lies in the sweep's folder: 3, or 3/1 if trials are repeated."""
        return str(trial) if self.replicates == 1 else f"{trial}/{replicate}"


_SWEEP_TYPES = {"space": dict, "replicates": int, "config": dict, "mlflow_run_id": (str, type(None))}
REBUILT = "sweep.resume writes it again from the runs' results"
_ANOTHER = "start another sweep; its runs are in their folders as they were"


def read_sweep(path: Path) -> dict:
    """The content of a sweep.yaml, of earlier versions too.

    Raises:
      FileNotFoundError: it is not there.
      DamagedFile: it is not what was written.
    """
    text = read_text(path, _ANOTHER)
    try:
        content = yaml.load(text, yaml.CSafeLoader)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where a mapping belongs")
        for key, kind in _SWEEP_TYPES.items():
            if not isinstance(content.get(key, path), kind):
                raise ValueError(f"{key} is {'not there' if key not in content else repr(content[key])}")
        _check_space(content)
        if content.get("fingerprint", found := _fingerprint(content)) != found:
            raise ValueError("its fingerprint says that it is not what was written")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise DamagedFile(path, f"cannot be read ({' '.join(str(error).split())})", _ANOTHER) from error
    return content


def _check_space(content: Mapping) -> None:
    """Raises ValueError for a space, points or a configuration that no sweep has."""

    def texts(found: object) -> bool:
        return isinstance(found, list) and all(isinstance(one, str) for one in found)

    for key, values in content["space"].items():
        if not isinstance(key, str) or not (isinstance(values, str) or texts(values)):
            raise ValueError(f"space has {key!r}: {values!r}, where a key and its values belong")
    points = content.get("points")
    fits = isinstance(points, list) and all(isinstance(p, dict) and texts([*p, *p.values()]) for p in points)
    if points is not None and not fits:
        raise ValueError("points is no list of keys with their values")
    if type(content["config"].get("seed")) is not int:
        raise ValueError("config has no seed")


def _fingerprint(content: Mapping) -> str:
    """A digest of all that a sweep.yaml says, but for itself and the tracker's run."""
    found = {key: value for key, value in content.items() if key not in ("fingerprint", "mlflow_run_id")}
    return sha256(json.dumps(found, sort_keys=True).encode())


def read_trials(path: Path, keys: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a trials.csv with a column for each of the swept `keys`, which are without a leading "+".

    Raises:
      FileNotFoundError: it is not there.
      DamagedFile: it is not what was written.
    """
    text = read_text(path, REBUILT)
    columns = [*_BEFORE_KEYS, *keys, *_RESULT_COLUMNS, *_AFTER_RESULTS]
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = table.fieldnames = [name.lstrip("+") for name in table.fieldnames or []]
        if missing := [name for name in columns if name not in header]:
            raise ValueError(f"it has no column {missing[0]}")
        rows = list(table)
        if not text.endswith("\n"):
            raise ValueError("its last line is cut")
        seen = set()
        for row in rows:
            place = f"line {len(seen) + 2}"
            if None in row or None in row.values():
                raise ValueError(f"{place} has another number of cells than its header")
            if not (row["trial"].isdecimal() and row["replicate"].isdecimal() and row["status"] in STATUSES):
                raise ValueError(f"{place} is no trial, replicate and status")
            seen.add((row["trial"], row["replicate"]))
        if len(seen) < len(rows):
            raise ValueError("a run stands there twice")
    except (ValueError, csv.Error) as error:
        raise DamagedFile(path, f"cannot be read ({error})", REBUILT) from error
    return [{name: shown.from_cell(cell) for name, cell in row.items()} for row in rows]


def same_point(row: Mapping[str, str], point: Point, keys: Iterable[str]) -> bool:
    """Whether a row of trials.csv has the values of a point; earlier versions wrote them with their quotes."""
    return all(
        row.get(key.lstrip("+"), row.get(key, "")) in (point.get(key, ""), shown.value(point.get(key, "")))
        for key in keys
    )


def drawn(folder: Path, record: Record) -> list[Point]:
    """The points of the trials that a sweep had begun, as trials.csv shows them; none where it cannot be read."""
    names = {key: key.lstrip("+") for key in record.space}
    try:
        rows = {int(row["trial"]): row for row in read_trials(folder / TRIALS, names.values())}
    except FileNotFoundError:
        return []
    except DamagedFile as error:
        print(f"{error.path}: {error.what}; it is written again from the runs' results", flush=True)
        return []
    numbers = itertools.takewhile(rows.__contains__, itertools.count())
    return [{key: rows[number][name] for key, name in names.items() if rows[number][name]} for number in numbers]


def record_failure(folder: Path, error: str, status: str = "failed") -> dict:
    """Makes sure that a run's folder says how it ended, however far it came."""
    result = (trusted_result(folder) or {}) | {"status": status, "error": shown.printable(masked(error))}
    folder.mkdir(parents=True, exist_ok=True)
    write_result(folder, result)
    return result


@dataclass
class Trial:
    """A point of the space and what became of it."""

    number: int
    point: Point
    replicates: int = 1
    results: dict[int, dict] = dataclasses.field(default_factory=dict)  # result.json of each replicate that has one
    twin: Trial | None = None  # the earlier trial that this one is a duplicate of

    @property
    def shown(self) -> dict[str, str]:
        """The point as people are shown it; `point` is what Hydra reads."""
        return shown.point(self.point)

    @property
    def title(self) -> str:
        return " ".join([f"trial {self.number}", *(f"{key}={value}" for key, value in self.shown.items())])

    @property
    def finished(self) -> bool:
        if self.twin:
            return self.twin.finished
        return len(self.results) == self.replicates and all(map(is_over, self.results.values()))

    @property
    def status(self) -> str:
        """The gravest status of its replicates."""
        return min((result["status"] for result in self.results.values()), key=_GRAVEST_FIRST.index)

    @property
    def error(self) -> str | None:
        """What the first replicate that did not complete says."""
        return next((row["error"] for row in self.rows() if row.get("error")), None)

    def rows(self) -> list[dict]:
        """The results of the replicates in order; a duplicate has its twin's."""
        if self.twin:
            return [as_duplicate(result, self.twin.number) for result in self.twin.rows()] if self.finished else []
        return [{"replicate": k, **self.results[k]} for k in sorted(self.results)]

    def objectives(self, metrics: Iterable[str]) -> list[float] | None:
        """Means over the replicates; None unless every replicate is complete and every metric a number."""
        if self.twin:
            return self.twin.objectives(metrics)
        if not self.finished or self.status != "complete":
            return None
        values = [[self.results[k].get(metric) for k in range(self.replicates)] for metric in metrics]
        if any(value is None for replicates in values for value in replicates):
            return None
        return [float(np.mean(replicates)) for replicates in values]


def begun_trials(folder: Path, record: Record, read: Callable[[Path], dict | None] = read_result) -> list[Trial]:
    """The trials that have begun, by their runs' files. A result tells the point that a sampler drew, or trials.csv.

    `read` gives a run's result: `read_result`, or `trusted_result` where a damaged one is made again.
    """
    shown_points = dict(enumerate(drawn(folder, record))) if record.points is None else {}
    trials: dict[int, Trial] = {}
    for number in sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()):
        places = {replicate: folder / record.run_folder(number, replicate) for replicate in range(record.replicates)}
        results = {replicate: result for replicate, place in places.items() if (result := read(place))}
        own = next((result["point"] for result in results.values() if "point" in result), None)
        if record.points is not None:
            point = record.points[number] if number < len(record.points) else None
            if point is None or (own is not None and not same_point(own, point, record.space)):
                continue  # nobody's, or another trial's: its own is made again
        else:
            point = own or shown_points.get(number, {})
        original = next(iter(results.values()), {}).get("duplicate_of")
        if original is not None and original in trials:
            trials[number] = Trial(number, point, record.replicates, twin=trials[original])
        elif original is None and results:
            trials[number] = Trial(number, point, record.replicates, results)
    return list(trials.values())


def as_duplicate(result: Mapping, original: int) -> dict:
    """The result of a trial whose plan is that of an earlier one: its values, at no cost."""
    ended = "" if result["status"] == "complete" else f", which is {result['status']}"
    return {**result, "status": "duplicate", "error": f"same plan as trial {original}{ended}"}


def front(trials: Sequence[Trial], objectives: Mapping[str, str]) -> set[int]:
    """The numbers of the trials that no other one on the same data dominates, by the means over their replicates."""
    signs = np.array([-1 if direction == "maximize" else 1 for direction in objectives.values()])
    tasks: dict[tuple[tuple[str, str], ...], dict[int, list[float]]] = collections.defaultdict(dict)
    for trial in trials:
        if (found := trial.objectives(objectives)) is not None:
            data = (item for item in trial.point.items() if item[0].lstrip("+").partition(".")[0] == "dataset")
            tasks[tuple(data)][trial.number] = found
    best: set[int] = set()
    for values in tasks.values():
        on = on_front(np.array(list(values.values())) * signs)
        best |= {number for number, it_is in zip(values, on, strict=True) if it_is}
    return best


def write_trials(folder: Path, trials: Sequence[Trial], keys: Iterable[str], objectives: Mapping[str, str]) -> None:
    """trials.csv: a row for every run that has begun, and for the duplicates of runs that have ended."""
    best = front(trials, objectives)
    text = io.StringIO()
    names = {key: key.lstrip("+") for key in keys}  # +key is how Hydra is told to add one
    columns = (*_BEFORE_KEYS, *names.values(), *_RESULT_COLUMNS, *_AFTER_RESULTS)
    table = csv.DictWriter(text, columns, extrasaction="ignore")
    table.writeheader()
    for trial in trials:
        point = {names[key]: shown.cell(value) for key, value in trial.shown.items()}
        for row in trial.rows():
            told = {"trial": trial.number, **point, "on_front": trial.number in best}
            table.writerow({**row, "error": shown.text_cell(row.get("error") or ""), **told})
    write_atomically(folder / TRIALS, text.getvalue())


def newest(base: Path) -> Path | None:
    """The sweep in a folder of sweeps that began, was extended or was resumed last; None if there is none.

    An empty sweep.yaml is of one that was killed, or whose disk was full, before it had begun.
    """
    sweeps = [path for path in base.glob(f"*/{SWEEP}") if path.is_file() and path.stat().st_size]
    return max(sweeps, key=lambda path: path.stat().st_mtime).parent if sweeps else None
