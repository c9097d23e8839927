"""A sweep on disk: sweep.yaml says what it is, trials.csv what became of its trials.

Both can be read by any process at any time: they are written by rename. The trials' own folders are the source of
trials.csv, so it can always be made anew.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from fedsweep.environment import masked
from fedsweep.errors import UserError
from fedsweep.pareto.front import on_front
from fedsweep.tracking.run_folder import RESULT, write_atomically, write_json

_RESULT_COLUMNS = ("test_accuracy", "uplink_bits", "downlink_bits", "total_bits")
SWEEP = "sweep.yaml"
OBJECTIVES = {"test_accuracy": "maximize", "total_bits": "minimize"}


@dataclass(frozen=True)
class Record:
    """sweep.yaml."""

    space: dict[str, list[str]]  # values of each swept key, in the order of the command line
    points: list[dict[str, str]]  # the swept values of each trial; a trial's number is its index
    objectives: dict[str, str]
    fingerprint: str  # of the configurations of all points
    mlflow_run_id: str | None  # the parent run

    def as_yaml(self) -> str:
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)

    def write(self, folder: Path) -> None:
        write_atomically(folder / SWEEP, self.as_yaml())

    @classmethod
    def read(cls, folder: Path) -> Record:
        path = folder / SWEEP
        if not path.exists():
            raise UserError(f"{path}: is not there; sweeps need hydra/sweeper=fedsweep, the default")
        return cls(**yaml.safe_load(path.read_text()))

    def title(self, trial: int) -> str:
        """What people see of a trial: its number and its swept values."""
        return " ".join([f"trial {trial}", *(f"{key}={value}" for key, value in self.points[trial].items())])


def results(folder: Path, record: Record) -> dict[int, dict]:
    """result.json of every trial that has one, by trial number."""
    found = {}
    for trial in range(len(record.points)):
        path = folder / str(trial) / RESULT
        if path.exists():
            found[trial] = _read(path)
    return found


def _read(path: Path) -> dict:
    """A result.json; an empty one (claimed, then the disk was full, say) is of a run that has only begun."""
    text = path.read_text()
    return json.loads(text) if text else {"status": "running"}


def record_failure(folder: Path, error: Exception) -> dict:
    """Makes sure that a failed trial's folder says so, whether or not the trial came far enough to say it itself."""
    path = folder / RESULT
    result = _read(path) if path.exists() else {}
    result.update(status="failed", error=masked(f"{type(error).__name__}: {error}".splitlines()[0]))
    write_json(path, result)
    return result


def write_trials(folder: Path, record: Record) -> None:
    """trials.csv: a row for every trial that has begun."""
    found = results(folder, record)
    finished = [trial for trial, result in found.items() if result["status"] == "complete"]
    front = on_front(
        np.array([found[trial]["test_accuracy"] for trial in finished]),
        np.array([found[trial]["total_bits"] for trial in finished]),
    )
    best = {trial for trial, on in zip(finished, front, strict=True) if on}

    text = io.StringIO()
    columns = ("trial", "replicate", "status", *record.space, *_RESULT_COLUMNS, "on_front", "mlflow_run_id", "error")
    rows = csv.DictWriter(text, columns)
    rows.writeheader()
    for trial, result in found.items():
        rows.writerow(
            {
                "trial": trial,
                "replicate": 0,
                "status": result["status"],
                **record.points[trial],
                **{column: result.get(column) for column in _RESULT_COLUMNS},
                "on_front": trial in best,
                "mlflow_run_id": result.get("mlflow_run_id"),
                "error": result.get("error"),
            }
        )
    write_atomically(folder / "trials.csv", text.getvalue())
