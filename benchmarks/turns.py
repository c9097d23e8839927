"""What every process of a comparison has in common: it does a round when it is its turn, and says what that took.

A column of the comparison (stock TFF, a plain loop, a peer, fedsweep) is a process of its own, so its memory is its
own, and perhaps of its own environment: nothing but Python and NumPy is imported here. The conductor (`bench.py`)
writes a round's number to its input; the process answers with a line of JSON. That way columns take turns on the same
clients' data, and a slow moment of the machine hits all of them.

    turns, _ = Turns.from_arguments()
    ...                                             # whatever must be ready before a round
    while (number := turns.wait()) is not None:
        if turns.trains: train(turns.cohort)
        if turns.evaluates(number): evaluate(turns.test)
        turns.done()

With `--rounds N` there is no conductor: N rounds, evaluated every five, as a run by itself. With `--evaluation` a turn
is an evaluation instead of a round.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Examples = tuple[np.ndarray, np.ndarray]  # inputs (images float32 [n, 28, 28, 1], or tokens), labels int32
EVALUATE_EVERY = 5


class Turns:
    """`folder` holds the rounds' data (`write`), if the column `reads` any; `rounds`: None where a conductor says what
    is next."""

    def __init__(self, folder: Path, rounds: int | None = None, evaluation: bool = False, reads: bool = True):
        self._folder, self._rounds, self._evaluation, self._reads = folder, rounds, evaluation, reads
        self._number, self._started = 0, 0.0
        self.cohort: list[Examples] = []  # the examples of each client of the round
        # Lines for the conductor go where stdout went; what libraries print goes to stderr.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    @classmethod
    def from_arguments(
        cls, parser: argparse.ArgumentParser | None = None, reads: bool = True
    ) -> tuple[Turns, argparse.Namespace]:
        parser = parser or argparse.ArgumentParser()
        parser.add_argument("--folder", type=Path, required=True, help="the rounds' data")
        parser.add_argument("--rounds", type=int, help="so many rounds at once; left out: rounds as stdin numbers them")
        parser.add_argument("--evaluation", action="store_true", help="a turn is an evaluation, not a round")
        arguments = parser.parse_args()
        return cls(arguments.folder, arguments.rounds, arguments.evaluation, reads), arguments

    def wait(self) -> int | None:
        """The number of the next round, from 1; None: no more. Its data is read before the clock starts."""
        if self._rounds is not None:
            number = self._number + 1 if self._number < self._rounds else None
        else:
            if not self._number:
                self._answer({"ready": True})
            line = sys.stdin.readline()
            number = int(line) if line.strip() else None
        if number and self.trains and self._reads:
            self.cohort = self.read(number)
        self._number = number or self._number
        self.begin()
        return number

    def begin(self) -> None:
        """Starts the clock again, where more has to be got ready first."""
        self._started = time.monotonic()

    def done(self, **more: float) -> None:
        """The turn has ended; `more` goes into the answer."""
        if self._rounds is None:
            self._answer({"seconds": time.monotonic() - self._started, "memory": peak_memory(), **more})

    @property
    def trains(self) -> bool:
        return not self._evaluation

    def evaluates(self, number: int) -> bool:
        return self._evaluation or (self._rounds is not None and number % EVALUATE_EVERY == 0)

    def read(self, number: int) -> list[Examples]:
        """The examples of each client of any round."""
        flat = _read(self._folder / f"{number}.npz")
        return list(zip(flat[::2], flat[1::2], strict=True))

    @functools.cached_property
    def test(self) -> Examples:
        """The test set, read in the first turn that asks for it."""
        inputs, labels = _read(self._folder / "test.npz")
        return inputs, labels

    def _answer(self, content: dict) -> None:
        self._answers.write(json.dumps(content) + "\n")
        self._answers.flush()


def write(path: Path, clients: Sequence[Examples]) -> None:
    """The examples of some clients as a file that `Turns` reads: `<number>.npz` of a round, `test.npz`."""
    np.savez(path, *(array for client in clients for array in client))


def _read(path: Path) -> list[np.ndarray]:
    with np.load(path) as arrays:
        return [arrays[f"arr_{k}"] for k in range(len(arrays.files))]


def peak_memory() -> int:
    """Bytes: the kernel's high-water marks of the resident memory of this process and those below it, summed."""
    total, pids = 0, [os.getpid()]
    while pids:
        process = Path(f"/proc/{pids.pop()}")
        try:
            (mark,) = [line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM")]
            pids += [int(pid) for task in process.glob("task/*/children") for pid in task.read_text().split()]
        except (OSError, ValueError):  # it has ended
            continue
        total += int(mark.split()[1]) * 1024
    return total
