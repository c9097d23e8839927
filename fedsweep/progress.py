"""A run's progress for people: a live bar on a terminal, a plain line at each evaluation elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedsweep.units import format_bits


class RunProgress:
    """A context manager; `advance` after every round."""

    def __init__(self, title: str, rounds: int):
        self._title, self._rounds, self._started = title, rounds, time.monotonic()
        self._console = Console()
        self.live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
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
        """A line that stays, above the bar."""
        self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def advance(self, round_number: int, accuracy: float | None, uplink_bits: int, downlink_bits: int) -> None:
        """Shows the state after a round; `accuracy` is the test accuracy measured last, None before the first."""
        shown = "" if accuracy is None else f"accuracy {accuracy:.4f}  "
        state = f"{shown}up {format_bits(uplink_bits)}  down {format_bits(downlink_bits)}"
        self._bar.update(self._task, completed=round_number, state=state)
        if not self.live:
            left = (time.monotonic() - self._started) / round_number * (self._rounds - round_number)
            self.say(f"{self._title} round {round_number}/{self._rounds}  {state}  {left:.0f} s left")
