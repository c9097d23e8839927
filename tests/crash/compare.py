"""What a sweep that met a fault left, against one that met none: lost, doubled, wrong, left behind."""

from __future__ import annotations

import collections
import math
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from .sweeps import ROUNDS, TRIALS, Place, files_in, result, rounds, trials

KINDS = ("lost", "doubled", "wrong", "left behind")
_PATIENCE = 75  # seconds for what a killed process has left running; `tracking.close` takes at most 60


@dataclass
class Counts:
    """What one fault did, over its tries."""

    tries: int = 0
    found: collections.Counter[str] = field(default_factory=collections.Counter)  # by KINDS
    notes: list[str] = field(default_factory=list)  # a line for each finding
    skipped: str = ""  # why the fault could not be tried here

    def note(self, kind: str, what: str) -> None:
        self.found[kind] += 1
        self.notes.append(f"{kind}: {what}")

    def add(self, other: Counts) -> None:
        self.tries += other.tries
        self.found += other.found
        self.notes += other.notes
        self.skipped = self.skipped or other.skipped

    @property
    def clean(self) -> bool:
        return not self.found.total()


def check(place: Place, counts: Counts, name: str = "sweep", database: Path | None = None) -> None:
    """Compares everything that a finished sweep left with the reference.

    Args:
      place: of the try.
      counts: takes the findings.
      name: of the sweep's folder.
      database: the file behind its tracking store; None: the default one.
    """
    reference, folder = place.lab.reference, place.sweep(name)
    _compare_tables("trials.csv", _bare(trials(folder)), _bare(reference.trials), ("trial", "replicate"), counts)
    for trial in range(TRIALS):
        run = folder / str(trial)
        _compare_tables(f"{trial}/rounds.csv", rounds(run), reference.rounds[trial], ("round",), counts)
        if not (found := result(run)):
            counts.note("lost", f"{trial}/result.json")
        elif found != reference.results[trial]:
            keys = {*found, *reference.results[trial]}
            differ = sorted(key for key in keys if found.get(key) != reference.results[trial].get(key))
            counts.note("wrong", f"{trial}/result.json: {', '.join(differ)}: {[found.get(key) for key in differ][:3]}")
    _compare_store(folder, database or place.runs / "mlflow.db", counts)
    files = files_in(folder)
    for path in sorted(reference.files - files):
        counts.note("lost", f"file {path}")
    for path in sorted(files - reference.files):
        counts.note("left behind", f"file {path}")
    check_streams(place, counts, name)


_LINES = 15  # of a traceback that are shown


def check_streams(place: Place, counts: Counts, name: str = "sweep") -> None:
    """No traceback, on the terminal or in a run's log."""
    said = place.streams() | {
        f"{path.parent.name}/log.txt": path.read_text(errors="replace") for path in place.sweep(name).glob("*/log.txt")
    }
    for where, text in said.items():
        if "Traceback (most recent call last)" in text:
            shown = "\n      ".join(text[text.index("Traceback") :].splitlines()[-_LINES:])
            counts.note("wrong", f"traceback in {where}:\n      {shown}")


def check_place(place: Place, counts: Counts) -> None:
    """No process, no temporary file, nothing beside the sweeps."""
    deadline = time.monotonic() + _PATIENCE
    while (alive := place.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in alive:
        counts.note("left behind", f"process {process.pid}")
    for path in place.temporary.rglob("*"):
        counts.note("left behind", f"temporary file {path.relative_to(place.temporary)}")
    if place.runs.is_dir():
        beside = {path.name for path in place.runs.iterdir() if not (path / "sweep.yaml").is_file()}
        for extra in sorted(beside - place.lab.reference.beside):
            counts.note("left behind", f"multirun_outputs/{extra}")
    for path in place.folder.iterdir():
        if path.name not in ("multirun_outputs", "server", "filler"):
            counts.note("left behind", path.name)


def refused(lines: list[str], status: int, counts: Counts, what: str) -> None:
    """A refusal is a status and one line."""
    if status == 0 or len(lines) != 1 or not lines[0].startswith("fedsweep: "):
        counts.note("wrong", f"{what}: status {status}, {len(lines)} lines: {' | '.join(lines)[-200:]}")


def still_running(database: Path) -> list[str]:
    """The names of runs that the store shows as running."""
    return [name for name, status in _query(database, "SELECT name, status FROM runs") if status == "RUNNING"]


def _bare(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: cell for key, cell in row.items() if key != "mlflow_run_id"} for row in rows]


def _compare_tables(name: str, found: list[dict], right: list[dict], keys: tuple[str, ...], counts: Counts) -> None:
    def key(row: dict) -> tuple:
        return tuple(row.get(column) for column in keys)

    times = collections.Counter(map(key, found))
    for row in right:
        if not times[key(row)]:
            counts.note("lost", f"{name}: row {'/'.join(key(row))}")
    for which, number in times.items():
        if number > 1:
            counts.note("doubled", f"{name}: row {which}, {number} times")
    by_key = {key(row): row for row in right}
    for row in found:
        if row != by_key.get(key(row)):
            expected = by_key.get(key(row)) or {}
            differ = {column: cell for column, cell in row.items() if cell != expected.get(column)}
            counts.note("wrong", f"{name}: row {key(row)}: {str(differ)[:160]}")
    if sorted(map(key, found)) != list(map(key, found)) and name.endswith("rounds.csv") and len(found) < 10:
        counts.note("wrong", f"{name}: rows out of order")


def _query(database: Path, query: str, *values: str) -> list[tuple]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def _compare_store(folder: Path, database: Path, counts: Counts) -> None:
    """MLflow says what the folder says: every run and every step once, ended as it has."""
    rows = {row["mlflow_run_id"]: row for row in trials(folder)}
    tags = _tags(database)
    parents = [run for run, own in tags.items() if own.get("sweep") == folder.name and "trial" not in own]
    if len(parents) != 1:
        counts.note("doubled" if parents else "lost", f"MLflow: {len(parents)} runs of the sweep")
        return
    children = [run for run, own in tags.items() if own.get("mlflow.parentRunId") == parents[0]]
    status = dict(_query(database, "SELECT run_uuid, status FROM runs WHERE lifecycle_stage = 'active'"))
    if status.get(parents[0]) != "FINISHED" or tags[parents[0]].get("status") != "complete":
        counts.note("wrong", f"MLflow: the sweep's run is {status.get(parents[0])}, {tags[parents[0]].get('status')}")
    numbers = collections.Counter(tags[run].get("trial") for run in children)
    for trial in range(TRIALS):
        if numbers[str(trial)] != 1:
            counts.note(
                "doubled" if numbers[str(trial)] else "lost", f"MLflow: {numbers[str(trial)]} runs of trial {trial}"
            )
    for run in children:
        number, row = tags[run].get("trial"), rows.get(run)
        if row is None or row["trial"] != number:
            counts.note("wrong", f"MLflow: run {run} of trial {number} is not the one of trials.csv")
            continue
        if (status.get(run), tags[run].get("status")) != ("FINISHED", "complete"):
            counts.note("wrong", f"MLflow: trial {number} is {status.get(run)}, {tags[run].get('status')}")
        if tags[run].get("on_front", "").capitalize() != row["on_front"]:
            counts.note("wrong", f"MLflow: trial {number}: on_front={tags[run].get('on_front')}, not {row['on_front']}")
        if tags[run].get("undelivered_rounds"):
            counts.note("lost", f"MLflow: trial {number} says that rounds were not delivered")
        params = _query(database, "SELECT key, value FROM params WHERE run_uuid = ?", run)
        if dict(params).get("encoder.bits") != row["encoder.bits"] or len(params) < 50:
            counts.note("lost", f"MLflow: {len(params)} parameters of trial {number}")
        _compare_metrics(database, run, f"MLflow: trial {number}", rounds(folder / number), counts)


def _tags(database: Path) -> dict[str, dict[str, str]]:
    """Of runs that nobody has deleted."""
    query = "SELECT run_uuid, key, value FROM runs JOIN tags USING (run_uuid) WHERE lifecycle_stage = 'active'"
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for run, key, value in _query(database, query):
        found[run][key] = value
    return found


def _compare_metrics(database: Path, run: str, name: str, rows: list[dict[str, str]], counts: Counts) -> None:
    found = collections.defaultdict(list)
    for key, step, value in _query(database, "SELECT key, step, value FROM metrics WHERE run_uuid = ?", run):
        found[key].append((step, value))
    for column in rows[0] if rows else ():
        if column == "round":
            continue
        key = f"bits/{column.removesuffix('_bits')}" if column.endswith("_bits") else column.replace("_", "/", 1)
        steps = collections.Counter(step for step, _ in found[key])
        for row in rows:
            number, cell = int(row["round"]), row[column]
            if cell and not steps[number]:
                counts.note("lost", f"{name}: {key} of round {number}")
            elif steps[number] > 1:
                counts.note("doubled", f"{name}: {key} of round {number}, {steps[number]} times")
            elif cell and not math.isclose(dict(found[key])[number], float(cell), rel_tol=1e-12):
                counts.note("wrong", f"{name}: {key} of round {number} is {dict(found[key])[number]}, not {cell}")
        if extra := set(steps) - set(range(1, ROUNDS + 1)):
            counts.note("wrong", f"{name}: {key} has steps {sorted(extra)}")
