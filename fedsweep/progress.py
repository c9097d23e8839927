"""A run's progress for people: a live bar on a terminal, a plain line at each evaluation elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from fedsweep.units import format_bits


class Progress(Protocol):
    """What a run tells of itself while it trains. A context manager."""

    live: bool  # it wants every round; else only those with an evaluation

    def __enter__(self) -> Progress: ...

    def __exit__(self, *_) -> None: ...

    def say(self, line: str) -> None:
        """A line that stays."""

    def warn(self, line: str) -> None:
        """A line that stays, and that the terminal of a run's sweep shows, too."""

    def untracked(self, line: str) -> None:
        """Something that a tracker could not be told; the run's own files have it."""

    def go_on(self, rounds: int) -> None:
        """So many rounds were there before: the run was cut off and goes on."""

    def advance(self, round_number: int, accuracy: float | None, uplink_bits: int, downlink_bits: int) -> None:
        """The state after a round; `accuracy` is the test accuracy measured last, None before the first."""


class RunProgress(Progress):
    """For one run in the foreground."""

    def __init__(self, title: str, rounds: int):
        self._title, self._rounds = title, rounds
        self.lost: list[str] = []  # what trackers could not be told
        self._started, self._before = time.monotonic(), 0
        self._console = Console(emoji=False, markup=False)
        self.live = self._console.is_terminal
        self._bar = rich.progress.Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self._console,
            disable=not self.live,
        )
        self._task = self._bar.add_task(title, total=rounds, state="compiling")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        self.say(f"{self._title}: {line}")

    def untracked(self, line: str) -> None:
        self.lost.append(line)

    def go_on(self, rounds: int) -> None:
        self._before = rounds
        self.say(f"{self._title} goes on after round {rounds}")

    def advance(self, round_number: int, accuracy: float | None, uplink_bits: int, downlink_bits: int) -> None:
        shown = "" if accuracy is None else f"accuracy {accuracy:.4f}  "
        state = f"{shown}up {format_bits(uplink_bits)}  down {format_bits(downlink_bits)}"
        self._bar.update(self._task, completed=round_number, state=state)
        if not self.live:
            seconds = (time.monotonic() - self._started) / (round_number - self._before)
            left = seconds * (self._rounds - round_number)
            self.say(f"{self._title} round {round_number}/{self._rounds}  {state}  {left:.0f} s left")
