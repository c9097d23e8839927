"""How long until the first round, and how long a whole run or sweep takes: processes as people start them."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import platformdirs
from conductor import RUN, Command, answer, process_of, turn

BITS = (1, 2, 3, 4, 6, 8)
EVALUATED = (*RUN, "evaluate_every=5")
ROUNDS = 10


def first_round(folder: Path, run: str, cache: Path) -> tuple[float, float]:
    """Seconds from the command, in the folder, to the beginning and to the end of its first round.

    `run`: the run's folder in it; `cache`: the folder where fedsweep keeps what it has compiled.
    """
    started = time.time()
    _watch(_fedsweep(folder, cache, *EVALUATED, "rounds=2", f"hydra.run.dir={run}"), folder / run)
    with (folder / run / "rounds.csv").open() as file:
        row = next(csv.DictReader(file))
    end = float((folder / run / "first_round").read_text()) - started
    return end - float(row["seconds"]), end


def first_answer(command: Command) -> tuple[float, float]:
    """The same of a column's process (`turns.py`)."""
    started = time.time()
    with process_of(command) as process:
        answer(process)
        ready = time.time() - started
        turn(process, 1)
        end = time.time() - started
    return ready, end


def run_alone(command: Command) -> float:
    """Seconds of a column that does its rounds as a run by itself."""
    started = time.time()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, "--rounds", str(ROUNDS)], check=True, **quiet)
    return time.time() - started


def sweep(folder: Path, cache: Path) -> tuple[float, list[tuple[float, float]]]:
    """(seconds of a sweep of six points; for each run that followed another in its worker, seconds from that one's end
    to the beginning and the end of its own first round)

    MLflow's database is there, as after the first run in a folder: making it takes seconds, once.
    """
    _watch(_fedsweep(folder, cache, "rounds=1", "hydra.run.dir=before"), folder / "before")
    started = time.time()
    swept = f"encoder.bits={','.join(map(str, BITS))}"
    command = ["-m", *EVALUATED, f"rounds={ROUNDS}", swept, "hydra.sweep.dir=sweep"]
    _watch(_fedsweep(folder, cache, *command), folder / "sweep")
    return time.time() - started, _gaps(folder / "sweep")


def _fedsweep(folder: Path, cache: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fedsweep", *arguments]
    data = str(platformdirs.user_cache_path("fedsweep"))  # where downloaded data lies, which is no part of a start
    environment = {"FEDSWEEP_DATA": data, **os.environ, "XDG_CACHE_HOME": str(cache)}
    # In a session of its own, where Ctrl-C does not reach it: `_watch` ends it.
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


def _watch(process: subprocess.Popen, folder: Path) -> None:
    """Notes when each run's first round was written, until the process ends."""
    try:
        while process.poll() is None:
            for rounds in folder.rglob("rounds.csv"):
                note = rounds.with_name("first_round")
                with contextlib.suppress(OSError):
                    if not note.exists() and rounds.read_text().count("\n") > 1:
                        note.write_text(str(rounds.stat().st_mtime))
            time.sleep(0.01)
    finally:  # interrupted: it ends its workers and closes its runs before its folder goes
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        sys.exit(f"fedsweep ended with status {process.returncode}")


def _gaps(sweep: Path) -> list[tuple[float, float]]:
    """A run follows the one that ended last before its first round began."""
    ends, starts = [], []
    for folder in sorted(path.parent for path in sweep.glob("*/rounds.csv")):
        ends.append((folder / "result.json").stat().st_mtime)
        with (folder / "rounds.csv").open() as file:
            seconds = float(next(csv.DictReader(file))["seconds"])
        starts.append((float((folder / "first_round").read_text()), seconds))
    found, free = [], sorted(ends)
    for end, seconds in sorted(starts):
        before = [other for other in free if other < end - seconds]
        if before:
            found.append((end - seconds - before[-1], end - before[-1]))
            free.remove(before[-1])
    return found
