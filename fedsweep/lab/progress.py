"""The lab's progress for people: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

_EVERY = 5.0  # seconds between plain lines


class LabProgress:
    """A context manager around `total` measurements."""

    def __init__(self, total: int):
        terminal = sys.stdout.isatty()
        self._console = Console(width=None if terminal else 140, emoji=False, markup=False)
        columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = rich.progress.Progress(
            *columns, TimeRemainingColumn(compact=True), TextColumn("left"),
            console=self._console, disable=not terminal, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total)
        self._total, self._done, self._plain = total, -1, not terminal
        self._spoke = time.monotonic()

    def __enter__(self) -> LabProgress:
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def start(self, what: str) -> None:
        """The next measurement begins, so the one before has ended."""
        self._done += 1
        self._bar.update(self._task, completed=self._done, description=what)
        if self._plain and time.monotonic() - self._spoke > _EVERY:
            self._spoke = time.monotonic()
            self.say(f"measured {self._done}/{self._total}, now {what}")

    def show(self, table: Table) -> None:
        self._console.print(table)

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
