"""The files of a run: config.yaml, environment.json, rounds.csv and result.json, in the run's own folder."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from fedsweep import schema
from fedsweep.environment import masked
from fedsweep.errors import UserError

RESULT = "result.json"
FILES = (RESULT, "config.yaml", "environment.json", "rounds.csv")


@dataclass(frozen=True)
class RoundRow:
    """A row of rounds.csv. Bits are summed over clients and cumulative since round 1."""

    round: int
    train_loss: float
    train_accuracy: float
    test_loss: float | None  # None in rounds without evaluation
    test_accuracy: float | None
    uplink_bits: int
    downlink_bits: int
    total_bits: int
    seconds: float  # wall time of the round, evaluation included


def write_atomically(path: Path, text: str) -> None:
    """Writes the file by rename: a reader sees the old content or the new, never half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def write_json(path: Path, content: dict) -> None:
    """`content` as JSON, by `write_atomically`."""
    write_atomically(path, _json(content))


def _json(content: dict) -> str:
    """NaN and infinity, which JSON does not have, are refused."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def claim(path: Path, text: str) -> None:
    """Writes a new file, for this process alone; what is there already is never written over."""
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise _taken(path) from None


def refuse_used(folder: Path, names: Iterable[str] = FILES) -> None:
    """Says early, of a run's files or of other names in the folder, what `claim` would say."""
    for path in (folder / name for name in names):
        if path.exists():
            raise _taken(path)


def _taken(path: Path) -> UserError:
    return UserError(f"{path}: is there already; choose another folder (hydra.run.dir, hydra.sweep.dir)")


class RunFolder:
    """Writes one run's files; a context manager. rounds.csv grows by a whole line at the end of every round."""

    def __init__(self, folder: Path, config: schema.Config, environment: dict):
        folder.mkdir(parents=True, exist_ok=True)
        columns = [field.name for field in dataclasses.fields(RoundRow)]
        claim(folder / RESULT, _json({"status": "running"}))
        claim(folder / "config.yaml", masked(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)))
        claim(folder / "environment.json", _json(environment))
        claim(folder / "rounds.csv", ",".join(columns) + "\n")
        self.path = folder
        self._file = (folder / "rounds.csv").open("a", newline="")
        self._rows = csv.DictWriter(self._file, columns, lineterminator="\n")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def log_round(self, row: RoundRow) -> None:
        self._rows.writerow(dataclasses.asdict(row))
        self._file.flush()

    def finish(self, result: dict) -> None:
        """The run's last word: result.json."""
        write_json(self.path / RESULT, result)
