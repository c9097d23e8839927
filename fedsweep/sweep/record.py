"""A sweep on disk: sweep.yaml says what it is, its numbered folders hold the runs, trials.csv what became of them.

Both files can be read by any process at any time: they are written by rename.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from fedsweep import shown
from fedsweep.environment import masked
from fedsweep.errors import UserError
from fedsweep.files import write_atomically, write_json
from fedsweep.pareto.front import on_front
from fedsweep.sweep.space import Point
from fedsweep.tracking.run_folder import CHECKPOINT, RESULT, is_over, read_result

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
        content = dataclasses.asdict(self)
        del content["fingerprint"], content["mlflow_run_id"]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        object.__setattr__(self, "fingerprint", digest)

    def write(self, folder: Path) -> None:
        write_atomically(folder / SWEEP, self.as_yaml())

    def as_yaml(self) -> str:
        return yaml.dump(dataclasses.asdict(self), Dumper=yaml.CSafeDumper, sort_keys=False)

    @classmethod
    def read(cls, folder: Path) -> Record:
        path = folder / SWEEP
        try:
            return cls(**yaml.load(path.read_text(), Loader=yaml.CSafeLoader))
        except FileNotFoundError:
            raise UserError(f"{path}: is not there; sweeps need hydra/sweeper=fedsweep, the default") from None
        except (TypeError, yaml.YAMLError) as error:
            raise UserError(
                f"{path}: is no sweep of this version of fedsweep ({str(error).splitlines()[0]})"
            ) from error

    def run_folder(self, trial: int, replicate: int) -> str:
        """Where a run lies in the sweep's folder: 3, or 3/1 if trials are repeated."""
        return str(trial) if self.replicates == 1 else f"{trial}/{replicate}"


def record_failure(folder: Path, error: str, status: str = "failed") -> dict:
    """Makes sure that a run's folder says how it ended, however far it came."""
    result = (read_result(folder) or {}) | {"status": status, "error": masked(error)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)
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
    columns = ("trial", "replicate", "status", *names.values(), *_RESULT_COLUMNS, "on_front", "mlflow_run_id", "error")
    table = csv.DictWriter(text, columns, extrasaction="ignore")
    table.writeheader()
    for trial in trials:
        point = {names[key]: shown.cell(value) for key, value in trial.shown.items()}
        for row in trial.rows():
            told = {"trial": trial.number, **point, "on_front": trial.number in best}
            table.writerow({**row, "error": shown.cell(shown.printable(row.get("error") or "")), **told})
    write_atomically(folder / TRIALS, text.getvalue())
