"""Starts the processes of a comparison, gives them turns, and compares what they answer."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import select
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ROOT / "benchmarks" / "columns"
PEERS = ROOT / "benchmarks" / "peers"

RUN = ("model=cnn", "dataset=mnist_by_writer", "client_batch_size=20")
TEN = (*RUN, "clients_per_round=10")

LONGEST = 600  # seconds of a turn

Command = Sequence[str | Path]


def fedsweep(folder: Path, *arguments: str) -> Command:
    """Rounds of fedsweep with these overrides."""
    return [sys.executable, COLUMNS / "fedsweep_rounds.py", "--folder", folder, *arguments]


def own(name: str, folder: Path, *arguments: str) -> Command:
    """A baseline in fedsweep's own environment."""
    return [sys.executable, COLUMNS / f"{name}.py", "--folder", folder, *arguments]


def peer(name: str, environment: str, folder: Path, *arguments: str) -> Command | None:
    """A baseline in its own environment; None where `make bench-peers` has not made that."""
    if not is_made(environment):
        return None
    python = ROOT / ".peers" / environment / "bin" / "python"
    return [python, PEERS / f"{name}_fedavg.py", "--folder", folder, *arguments]


def is_made(environment: str) -> bool:
    """Whether `make bench-peers` has made a peer's environment."""
    return (ROOT / ".peers" / environment / ".complete").exists()


def machine() -> str:
    """When, what and where, for the head of a report."""
    from fedsweep import environment

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.date.today().isoformat()}, commit {environment.git_commit()}; {environment.cpu()},"
        f" {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, shared with others"
    )


@dataclass(frozen=True)
class Measured:
    """A column's answers, turn by turn, without those that warm up."""

    turns: list[dict]

    def median(self) -> float:
        """Seconds."""
        return statistics.median(turn["seconds"] for turn in self.turns)

    @property
    def memory(self) -> int:
        """Bytes at most, in all turns."""
        return max(turn["memory"] for turn in self.turns)


def ratio(a: Measured, b: Measured) -> float:
    """The median over turns of a's seconds over b's in the same turn: a slow moment of the machine hits both."""
    return statistics.median(x["seconds"] / y["seconds"] for x, y in zip(a.turns, b.turns, strict=True))


def compare(
    columns: Mapping[str, Command | None], turns: int, warm_up: int, say: Callable[[str], None]
) -> dict[str, Measured]:
    """Lets columns take turns: all do round 1, then all do round 2. A column without a command is left out."""
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(process_of(command)) for name, command in columns.items() if command}
        for process in running.values():
            answer(process)  # it is ready
        answers = {name: [] for name in running}
        for number in range(1, warm_up + turns + 1):
            for name, process in running.items():
                answers[name].append(turn(process, number))
            seconds = "  ".join(f"{name} {answers[name][-1]['seconds']:.2f}" for name in running)
            say(f"  turn {number}: {seconds}")
    return {name: Measured(found[warm_up:]) for name, found in answers.items()}


@contextlib.contextmanager
def process_of(command: Command) -> Iterator[subprocess.Popen]:
    """A column's process, which ends with its input; if it does not, it is ended, with those below it."""
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        try:
            try:
                yield process
            except ColumnError as error:
                if error.process is not process:  # another column's, on its way out
                    raise
                said.seek(0)
                last = "".join(said.readlines()[-10:])
                sys.exit(f"{error}: {shlex.join(map(str, command))}\n{last}")
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):  # all that it was asked is answered
                process.wait(30)
        finally:
            if process.poll() is None:
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:  # TFF's worker, too
                    one.kill()


def turn(process: subprocess.Popen, number: int) -> dict:
    """Lets a column do a round, and gives its answer."""
    with contextlib.suppress(BrokenPipeError):  # it has ended, as its answer says
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
    return answer(process)


class ColumnError(Exception):
    """A column does not answer."""

    def __init__(self, process: subprocess.Popen, text: str):
        super().__init__(text)
        self.process = process


def answer(process: subprocess.Popen) -> dict:
    """The next line of a column, the first of which says that it is ready."""
    ready, _, _ = select.select([process.stdout], [], [], LONGEST)
    line = process.stdout.readline() if ready else ""
    if not line:
        raise ColumnError(process, "a column ended early" if ready else f"a column has not answered for {LONGEST} s")
    return json.loads(line)
