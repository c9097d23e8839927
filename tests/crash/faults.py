"""The faults, one function each: `fault(lab, draw, short)` makes it happen to a sweep and counts what came of it."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from .compare import Counts, check, check_place, check_streams, refused, still_running
from .sweeps import ROOT, ROUNDS, TRIALS, Hung, Lab, Place, Process, cleared, files_in, result, rounds

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
Fault = Callable[[Lab, random.Random, bool], Counts]

# --- Moments ---------------------------------------------------------------------------------------------------------


def _seen(place: Place, trial: int) -> int:
    return len(rounds(place.sweep() / str(trial)))


def _start_up(place: Place, draw: random.Random, process: Process) -> bool:
    return process.runs_for(draw.uniform(0, 6))


def _migration(place: Place, draw: random.Random, process: Process) -> bool:
    """Somewhere in MLflow's first use of its database, whatever it is called while it is built."""
    began = process.until(lambda: any("mlflow.db" in path.name for path in place.runs.glob("*")))
    return began and process.runs_for(draw.uniform(0, 4))


def _round(place: Place, draw: random.Random, process: Process) -> bool:
    """In a round that no process of this sweep has reached before."""
    ahead = [(trial, k) for trial in range(TRIALS) for k in range(_seen(place, trial) + 1, ROUNDS + 1)]
    if not ahead:
        return _start_up(place, draw, process)
    trial, number = draw.choice(ahead)
    return process.until(lambda: _seen(place, trial) >= number) and process.runs_for(draw.uniform(0, 0.2))


def _result(place: Place, draw: random.Random, process: Process) -> bool:
    """A trial's result is there; its tracker may not know."""
    ahead = [trial for trial in range(TRIALS) if not _complete(place, trial)]
    if not ahead:
        return _figures(place, draw, process)
    trial = draw.choice(ahead)
    return process.until(lambda: _complete(place, trial)) and process.runs_for(draw.choice((0, draw.uniform(0, 0.1))))


def _figures(place: Place, draw: random.Random, process: Process) -> bool:
    """All trials have ended; if they had before this process began, it first has to find that out."""
    wait = draw.uniform(4, 10) if all(_complete(place, trial) for trial in range(TRIALS)) else draw.uniform(0, 4)
    over = process.until(lambda: all(_complete(place, trial) for trial in range(TRIALS)))
    return over and process.runs_for(wait)


def _complete(place: Place, trial: int) -> bool:
    return result(place.sweep() / str(trial)).get("status") == "complete"


_MOMENTS = {
    "start-up": _start_up, "migration": _migration, "rounds": _round, "result": _result, "figures": _figures,
}  # fmt: skip
_ORDERS = (("start-up", "rounds", "result"), ("migration", "rounds", "figures"), ("rounds", "result", "figures"),
           ("migration", "start-up", "rounds"), ("rounds", "rounds", "figures"))  # fmt: skip

# --- Kills -----------------------------------------------------------------------------------------------------------


def kill_sweep(lab: Lab, draw: random.Random, short: bool) -> Counts:
    return _killed(lab, draw, short, _kill_sweep)


def kill_all(lab: Lab, draw: random.Random, short: bool) -> Counts:
    return _killed(lab, draw, short, lambda place, process, moment, counts: process.kill_all(place.processes()))


def _killed(lab: Lab, draw: random.Random, short: bool, kill: Callable) -> Counts:
    """One sweep, killed at several moments and resumed each time."""
    counts = Counts()
    moments = ("rounds",) if short else draw.choice(_ORDERS)
    with cleared(lab.place("kill")) as place:
        if "migration" not in moments:
            place.use_ready_store()
        process = place.start()
        for moment in moments:
            if not _MOMENTS[moment](place, draw, process):
                break  # it has ended before
            counts.tries += 1
            kill(place, process, moment, counts)
            process = place.start()
        _ends(place, process, counts, f"after kills at {', '.join(moments)}")
    return counts


def _kill_sweep(place: Place, process: Process, moment: str, counts: Counts) -> None:
    """Seconds after the sweep's death its workers have gone, and nothing shows as running."""
    process.kill()
    database, deadline = place.runs / "mlflow.db", time.monotonic() + 30
    left = ["?"]
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        with contextlib.suppress(sqlite3.Error):  # a store that was being made
            left = still_running(database) if database.exists() else []
        left = left + ["a worker"] * any("fedsweep.sweep.worker" in line for line in place.commands())
    if left:
        counts.note("left behind", f"30 s after SIGKILL ({moment}): still running: {', '.join(left)}")


def kill_worker(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """Its workers are killed, now this one, now that one; the sweep goes on by itself."""
    counts = Counts()
    with cleared(lab.place("worker")) as place:
        place.use_ready_store()
        process = place.start()
        for moment in draw.choice((("start-up", "rounds", "result"), ("rounds", "rounds", "rounds"))):
            if _MOMENTS[moment](place, draw, process):
                counts.tries += process.kill_worker(draw)
        _ends(place, process, counts)
    return counts


def _ends(place: Place, process: Process, counts: Counts, what: str = "the sweep") -> None:
    """The process must end well, and all must be as if nothing had happened."""
    _ends_well(process, counts, what)
    check(place, counts)
    check_place(place, counts)


def _ends_well(process: Process, counts: Counts, what: str) -> None:
    if (status := process.wait()) != 0:
        counts.note("lost", f"{what} ends with {status}: {' | '.join(process.errors())[-300:]}")


def _ends_in_words(place: Place, process: Process, counts: Counts) -> int:
    """A process that met a fault may fail: with a line that says why, and no traceback."""
    status = process.wait()
    if status != 0 and not any(line.startswith("fedsweep: ") for line in process.errors()):
        counts.note("wrong", f"status {status} and no line that says why: {process.output()[-200:]}")
    check_streams(place, counts)
    return status


# --- Disks -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _disk(place: Place, size: str) -> Iterator[None]:
    """The place's folder is a small file system of its own (in the mount namespace of `python -m tests.crash`)."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place.folder], check=True)
    try:
        yield
    finally:
        for process in place.processes():
            with contextlib.suppress(Exception):
                process.kill()
        subprocess.run(["umount", "--lazy", place.folder], check=True)


def disk_full(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """No byte is free from a moment on."""
    counts = Counts(tries=1)
    with cleared(lab.place("disk")) as place, _disk(place, "48m"):
        place.use_ready_store()
        process = place.start()
        draw.choice((_start_up, _round, _round, _result, _figures))(place, draw, process)
        with contextlib.suppress(OSError), (place.folder / "filler").open("wb", buffering=0) as filler:
            for block in (2**20, 2**12, 2**9):
                with contextlib.suppress(OSError):
                    while filler.write(bytes(block)) == block:
                        pass
        _ends_in_words(place, process, counts)
        (place.folder / "filler").unlink()
        _ends(place, place.start(), counts, "the resumed sweep")
    return counts


def read_only(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """The output folder may not be written: at the start of a sweep, and when one that was killed is resumed."""
    counts = Counts(tries=2)
    with cleared(lab.place("read-only")) as place:
        place.use_ready_store()
        for begun in (False, True):
            if begun:
                process = place.start()
                _round(place, draw, process)
                process.kill_all(place.processes())
            before = files_in(place.folder)
            subprocess.run(["mount", "--bind", place.folder, place.folder], check=True)
            try:
                subprocess.run(["mount", "-o", "remount,bind,ro", place.folder], check=True)
                process = place.start()
                refused(process.errors() if process.wait() else [], process.wait(), counts, f"read-only, {begun=}")
            finally:
                subprocess.run(["umount", "--lazy", place.folder], check=True)
            if files_in(place.folder) != before:
                counts.note("wrong", "a read-only folder has changed")
        _ends(place, place.start(), counts)
    return counts


def temporary_full(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """/tmp and /dev/shm have no byte free during the whole sweep."""
    counts = Counts(tries=1)
    fill = "mount -t tmpfs -o size=4k tmpfs $d && (head -c 1m /dev/zero > $d/filler 2>/dev/null; true)"
    inside = ["unshare", "-m", "sh", "-c", f'for d in /tmp /dev/shm; do {fill} || exit 97; done; exec "$@"', "sh"]
    with cleared(lab.place("temporary")) as place:
        place.use_ready_store()
        _ends(place, place.start(inside=inside, TMPDIR="/tmp"), counts)
    return counts


# --- The tracker -----------------------------------------------------------------------------------------------------


class _Server:
    """A real `mlflow server` on a port of its own, whose database lies in the place."""

    def __init__(self, place: Place):
        self._place = place
        (place.folder / "server" / "tmp").mkdir(parents=True)
        self.database = place.folder / "server" / "mlflow.db"
        shutil.copy(place.lab.database, self.database)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        folder = self._place.folder / "server"
        self._process = self._place.command(
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.database}", "--artifacts-destination", str(folder / "artifacts"),
            TMPDIR=str(folder / "tmp"),  # MLflow's lock stays there when the server is killed: no file of ours
        )  # fmt: skip
        if not self._process.until(self._answers):
            raise Hung(f"the server does not start: {self._process.output()[-300:]}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            time.sleep(0.2)
            return False

    def stop(self) -> None:
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(children, 10)


def server_away(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """The tracking server is gone in the middle, for a while or until the sweep has ended; then it is back."""
    counts = Counts(tries=1)
    with cleared(lab.place("server")) as place:
        server = _Server(place)
        try:
            process = place.start(f"tracker.uri={server.uri}")
            draw.choice((_round, _result))(place, draw, process)
            server.stop()
            if draw.random() < 0.5:
                process.wait()
            else:
                process.runs_for(draw.uniform(0.5, 6))
            server.start()
            _ends_well(process, counts, "the sweep without its tracker")
            _ends_well(place.start(f"tracker.uri={server.uri}"), counts, "the resumed sweep")
        finally:
            server.stop()
        check(place, counts, database=server.database)
        check_place(place, counts)
    return counts


def database_locked(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """Somebody holds the tracking database for a minute."""
    counts = Counts(tries=1)
    with cleared(lab.place("locked")) as place:
        place.use_ready_store()
        process = place.start()
        draw.choice((_start_up, _round, _result))(place, draw, process)
        holder = sqlite3.connect(place.runs / "mlflow.db", timeout=30, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(10 if short else 60, holder.close)
        release.start()
        _ends_in_words(place, process, counts)
        release.join()
        _ends(place, place.start(), counts, "the resumed sweep")
    return counts


# --- The clock, and others -------------------------------------------------------------------------------------------


def clock_back(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """The clock is set back an hour, in the middle of a sweep, and once more before it is resumed."""
    if FAKETIME is None:
        return Counts(skipped="libfaketime is not installed (package faketime)")
    counts = Counts(tries=1)
    with cleared(lab.place("clock")) as place:
        place.use_ready_store()
        offset = lab.folder / f"{place.name}.clock"
        offset.write_text("+0h\n")
        clock = {
            "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1", "NO_FAKE_STAT": "1",
            "PYTHONPATH": f"{_sleeping(lab)}:{ROOT}",
        }  # fmt: skip
        process = place.start(**clock)
        draw.choice((_start_up, _round, _result))(place, draw, process)
        offset.write_text("-1h\n")
        if draw.random() < 0.5 and process.runs_for(draw.uniform(0, 2)):
            process.kill_all(place.processes())
            offset.write_text("-2h\n")
            process = place.start(**clock)
        _ends(place, process, counts)
    return counts


def _sleeping(lab: Lab) -> Path:
    """A folder for PYTHONPATH: under libfaketime 0.9.10 Python's own time.sleep raises EINVAL."""
    folder = lab.folder / "sleeping"
    folder.mkdir(exist_ok=True)
    sleep = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds) and None\n"
    (folder / "sitecustomize.py").write_text(sleep)
    return folder


def two_in_one_folder(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """A second sweep in the folder of one that runs: to resume it, as a new one, and at the same moment."""
    counts = Counts(tries=3)
    with cleared(lab.place("two")) as place:
        place.use_ready_store()
        process = place.start()
        if process.until((place.sweep() / ".lock").exists):
            second = place.start()
            refused(second.errors() if second.wait() else [], second.wait(), counts, "a second one that resumes")
            third = place.command(
                sys.executable, "-m", "fedsweep", "-m", "encoder.bits=2,4", "hydra.sweep.dir=multirun_outputs/sweep"
            )
            refused(third.errors() if third.wait() else [], third.wait(), counts, "a second one, as new")
        _ends(place, process, counts)
    with cleared(lab.place("race")) as place:
        place.use_ready_store()
        both = [place.start(), place.start()]
        ended = [(process.wait(), process) for process in both]
        if sorted(status == 0 for status, _ in ended) != [False, True]:
            counts.note("wrong", f"two at the same moment end with {[status for status, _ in ended]}")
        for status, process in ended:
            if status:
                refused(process.errors(), status, counts, "the later of two at the same moment")
        check(place, counts)
        check_place(place, counts)
    return counts


def four_on_one_database(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """Four sweeps begin at the same time on a tracking database that does not exist yet."""
    counts = Counts(tries=4)
    with cleared(lab.place("four")) as place:
        names = [f"sweep{k}" for k in range(4)]
        running = [place.start("sweep.max_workers=1", name=name) for name in names]
        for name, process in zip(names, running, strict=True):
            _ends_well(process, counts, name)
        for name in names:
            check(place, counts, name=name)
        check_place(place, counts)
    return counts
