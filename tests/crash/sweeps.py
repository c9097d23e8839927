"""The sweep that faults are tried on, as processes that can be watched, killed and found again."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
TRIALS, ROUNDS = 3, 12
# Three trials on two workers: one is waiting, one ends while another runs; a checkpoint after every second round.
SWEEP = (
    "-m", f"rounds={ROUNDS}", "evaluate_every=3", "checkpoint_every=2", "model=2nn", "clients_per_round=3",
    "encoder.threshold=1000", "encoder.bits=2,4,8", "runtime.threads=1", "sweep.max_workers=2", "sweep.retries=3",
)  # fmt: skip
_MARK = "FEDSWEEP_CRASH_TRY"  # environment variable: whatever a try has started is found by it, in any session
_LAB = "FEDSWEEP_CRASH_LAB"  # the same of all tries together
_SECONDS = 600  # an undisturbed sweep takes about ten, on a machine with nothing else to do


class Hung(Exception):
    """A process did not end, or an event did not happen, in minutes."""


class Lab:
    """What all tries share: a folder, a cache of graphs, a tracking store that is set up, the reference sweep."""

    def __init__(self, folder: Path):
        self.folder, self.cache, self.ended = folder, folder / "cache", False
        self.database = folder / "ready" / "mlflow.db"

    def end(self) -> None:
        """Ends whatever was started here; nothing more can be."""
        self.ended = True
        for process in _marked(_LAB, str(self.folder)):
            with contextlib.suppress(psutil.Error):
                process.kill()

    def place(self, name: str) -> Place:
        return Place(self, self.folder / f"{name}-{uuid.uuid4().hex[:8]}")

    def prepare(self) -> None:
        """Sets a store up and runs the sweep undisturbed. The first run fills the cache: all others start warm."""
        first, store = self.place("reference"), self.place("store")
        self.database.parent.mkdir()
        setup = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments()"
        made = store.command(sys.executable, "-c", setup, f"sqlite:///{self.database}")
        done = first.start()
        for process in (made, done):
            if process.wait() != 0:
                raise SystemExit(f"the undisturbed sweep failed:\n{process.output()}")
        self.reference = Reference(first)


class Place:
    """The working folder of one try: where its sweeps, their tracking store and their temporary files are."""

    def __init__(self, lab: Lab, folder: Path):
        self.lab, self.folder, self.name = lab, folder, folder.name
        self.temporary = lab.folder / "tmp" / folder.name
        self.temporary.mkdir(parents=True)
        folder.mkdir(parents=True, exist_ok=True)
        hidden = ("MLFLOW_TRACKING_URI", "HYDRA_FULL_ERROR", "PYTEST_CURRENT_TEST")
        self.environment = {key: value for key, value in os.environ.items() if key not in hidden} | {
            _MARK: self.name,
            _LAB: str(lab.folder),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(lab.cache),
        }
        self._commands = 0

    @property
    def runs(self) -> Path:
        return self.folder / "multirun_outputs"

    def use_ready_store(self) -> None:
        """Without it the first sweep here sets its tracking store up, which takes seconds."""
        self.runs.mkdir(exist_ok=True)
        shutil.copy(self.lab.database, self.runs / "mlflow.db")

    def sweep(self, name: str = "sweep") -> Path:
        return self.runs / name

    def start(self, *arguments: str, name: str = "sweep", inside: Sequence[str] = (), **environment: str) -> Process:
        """Starts the sweep, or goes on with it if its folder says that it has begun.

        Args:
          arguments: overrides beside SWEEP.
          name: of the sweep's folder.
          inside: a command that runs the rest of its command line (`unshare -m ...`).
          environment: variables beside those of the place.
        """
        begun = (self.sweep(name) / "sweep.yaml").exists()
        where = f"{'sweep.resume' if begun else 'hydra.sweep.dir'}={self.sweep(name).relative_to(self.folder)}"
        return self.command(*inside, sys.executable, "-m", "fedsweep", *SWEEP, where, *arguments, **environment)

    def command(self, *command: str, **environment: str) -> Process:
        """Starts any command as part of this try; its streams go to files outside the working folder."""
        if self.lab.ended:
            raise Hung("interrupted")
        self._commands += 1
        log = self.lab.folder / "streams" / f"{self.name}-{self._commands}"
        log.parent.mkdir(exist_ok=True)
        return Process(command, self.folder, {**self.environment, **environment}, log)

    def processes(self) -> list[psutil.Process]:
        """Everything that this try has started and that still runs."""
        return _marked(_MARK, self.name)

    def commands(self) -> list[str]:
        """Their command lines."""
        lines = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                lines.append(" ".join(process.cmdline()))
        return lines

    def streams(self) -> dict[str, str]:
        """What all commands so far have written, by the names of the files."""
        found = (self.lab.folder / "streams").glob(f"{self.name}-*")
        return {path.name: path.read_text(errors="replace") for path in sorted(found)}

    def clear(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        for name in self.streams():
            (self.lab.folder / "streams" / name).unlink()


def _marked(variable: str, value: str) -> list[psutil.Process]:
    """The processes with this variable in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(variable) == value:
                found.append(process)
    return found


class Process:
    """A command that runs, with its streams in files."""

    def __init__(self, command: Sequence[str], folder: Path, environment: dict[str, str], log: Path):
        self._out, self._err = log.with_name(f"{log.name}.out"), log.with_name(f"{log.name}.err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, seconds: float = _SECONDS) -> int:
        """The exit status. Raises Hung (and ends the process) if it takes longer."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Hung(f"did not end in {seconds:.0f} s: {self.output()[-300:]}") from None

    def runs_for(self, seconds: float) -> bool:
        """Whether it still runs after so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.ended

    def until(self, event: Callable[[], bool], seconds: float = _SECONDS) -> bool:
        """Waits for an event; False if the process has ended without it."""
        deadline = time.monotonic() + seconds
        while not event():
            if self.ended:
                return event()
            if time.monotonic() > deadline:
                self.kill()
                raise Hung(f"nothing happened in {seconds:.0f} s: {self.output()[-300:]}")
            time.sleep(0.004)
        return True

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def workers(self) -> list[psutil.Process]:
        """The sweep's own; what a worker starts looks like it for a moment."""
        try:
            children = psutil.Process(self.pid).children()
            return [child for child in children if "fedsweep.sweep.worker" in child.cmdline()]
        except psutil.Error:
            return []

    def kill_worker(self, draw: random.Random) -> bool:
        """SIGKILL to one of its workers; False if it has none."""
        workers = self.workers()
        for worker in workers and [draw.choice(workers)]:
            with contextlib.suppress(psutil.Error):
                worker.kill()
                return True
        return False

    def kill_all(self, processes: Sequence[psutil.Process]) -> None:
        """SIGKILL to everything at once: stopped first, so that nobody sees another's death."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
        self._process.wait()

    def errors(self) -> list[str]:
        return [line for line in self._err.read_text(errors="replace").splitlines() if line.strip()]

    def output(self) -> str:
        return self._out.read_text(errors="replace") + self._err.read_text(errors="replace")


class Reference:
    """What an undisturbed sweep leaves, read once."""

    def __init__(self, place: Place):
        self.folder, self.runs = place.sweep(), place.runs
        self.files = files_in(self.folder)
        self.beside = {path.name for path in self.runs.iterdir()} - {"sweep"}
        self.trials = trials(self.folder)
        self.rounds = [rounds(self.folder / str(k)) for k in range(TRIALS)]
        self.results = [result(self.folder / str(k)) for k in range(TRIALS)]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def trials(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(_lines(folder / "trials.csv")))


def rounds(folder: Path) -> list[dict[str, str]]:
    """Without the seconds, which may differ."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(_lines(folder / "rounds.csv"))]


_OWN = ("mlflow_run_id", "sha256", "rounds_sha256")


def result(folder: Path) -> dict:
    """result.json without the tracker's id and the digests of what holds seconds; empty if there is none, or (in the
    middle of a fault) half of one."""
    try:
        content = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in content.items() if key not in _OWN}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


@contextlib.contextmanager
def cleared(place: Place) -> Iterator[Place]:
    try:
        yield place
    finally:
        place.clear()
