"""The files of a run: config.yaml, environment.json, rounds.csv and result.json, in the run's own folder."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from fedsweep import schema
from fedsweep.environment import masked
from fedsweep.files import as_json, claim, clear_drafts, write_atomically, write_json

RESULT, CHECKPOINT = "result.json", "checkpoint.npz"
FILES = (RESULT, "config.yaml", "environment.json", "rounds.csv")
UNFINISHED = ("running", "interrupted")  # a run with any other status is over


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
    uplink_width: float | None = None  # mean bits an element that a schedule chose; a column where there is a schedule
    validation_loss: float | None = None  # columns where there is a validation set
    validation_accuracy: float | None = None
    test_accuracy_p10: float | None = None  # quantiles over the clients of the test set; columns where it has some
    test_accuracy_p50: float | None = None
    test_accuracy_p90: float | None = None
    bad_updates: int | None = None  # of this round, dropped or counted as zero; a column where that was chosen

    @property
    def by_client(self) -> dict[str, float]:
        """The quantiles, of a round that has them."""
        found = {name: getattr(self, name) for name in CLIENT_QUANTILES}
        return {name: value for name, value in found.items() if value is not None}


CLIENT_QUANTILES = ("test_accuracy_p10", "test_accuracy_p50", "test_accuracy_p90")


def read_rounds(path: Path) -> list[RoundRow]:
    """The rows of a rounds.csv. A last line that a power cut left incomplete is no row."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    return [_row(cells) for cells in csv.DictReader(io.StringIO(whole))]


def _row(cells: dict[str, str]) -> RoundRow:
    whole = {"round", "uplink_bits", "downlink_bits", "total_bits", "bad_updates"}
    return RoundRow(
        **{key: int(cell) if key in whole else float(cell) if cell else None for key, cell in cells.items()}
    )


def read_result(folder: Path) -> dict | None:
    """The folder's result.json. An empty one, of a disk that was full, is of a run that has only begun."""
    path = folder / RESULT
    if not path.exists():
        return None
    text = path.read_text()
    return json.loads(text) if text else {"status": "running"}


def is_over(result: dict | None) -> bool:
    """Whether a run with this result.json (None: it has none) will never be gone on with."""
    return result is not None and result["status"] not in UNFINISHED


class RunFolder:
    """Writes one run's files; a context manager. rounds.csv grows by a whole line at the end of every round.

    With `go_on` the folder may hold a run of the same configuration that was cut off; `keep` says what of it counts.
    """

    def __init__(
        self, folder: Path, config: schema.Config, environment: dict, columns: Sequence[str], go_on: bool = False
    ):
        """`columns`: those of rounds.csv, names of fields of `RoundRow`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.checkpoint = folder, folder / CHECKPOINT
        self._columns = list(columns)
        if go_on:
            clear_drafts(folder)
        write = write_atomically if go_on else claim
        if not (go_on and (folder / RESULT).exists()):  # it may know the tracker's run
            write(folder / RESULT, as_json({"status": "running"}))
        write(folder / "config.yaml", masked(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)))
        write(folder / "environment.json", as_json(environment))
        if not (go_on and (folder / "rounds.csv").exists()):
            write(folder / "rounds.csv", ",".join(self._columns) + "\n")
        self._file = (folder / "rounds.csv").open("a", newline="")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def rows(self) -> list[RoundRow]:
        """The rounds that are there already."""
        return read_rounds(self.path / "rounds.csv")

    def keep(self, rows: Sequence[RoundRow]) -> None:
        """Makes these rows, the first of those that are there, the only ones."""
        self._file.close()
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self._columns, *map(self._cells, rows)])
        write_atomically(self.path / "rounds.csv", text.getvalue())
        self._file = (self.path / "rounds.csv").open("a", newline="")

    def log_round(self, row: RoundRow) -> None:
        csv.writer(self._file, lineterminator="\n").writerow(self._cells(row))
        self._file.flush()

    def _cells(self, row: RoundRow) -> list:
        return [getattr(row, column) for column in self._columns]

    def sync(self) -> None:
        """Returns when the rounds so far would survive a power cut."""
        os.fsync(self._file.fileno())

    def write_result(self, result: dict) -> None:
        write_json(self.path / RESULT, result)
        if is_over(result):
            self.checkpoint.unlink(missing_ok=True)
