"""What a person sees of a sweep while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedsweep.sweep.engine import Run
from fedsweep.sweep.record import Record, Trial
from fedsweep.tracking.run_folder import is_over
from fedsweep.units import format_bits

_FEW = 4  # runs of a sweep that a person follows one by one: a line an evaluation, on a terminal, too


@dataclass
class _State:
    run: Run
    started: float = field(default_factory=time.monotonic)
    round: int | None = None  # None: compiling
    accuracy: float | None = None
    bits: int = 0

    @property
    def rounds(self) -> int:
        return self.run.config.rounds

    def cells(self) -> tuple[str, ...]:
        if self.round is None:
            return self.run.title, "compiling", "", ""
        accuracy = "" if self.accuracy is None else f"{self.accuracy:.4f}"
        return self.run.title, f"{self.round}/{self.rounds}", accuracy, format_bits(self.bits)


class Board:
    """Takes in what happens to runs; a context manager."""

    def __init__(self, record: Record, workers: int):
        self._console = Console(emoji=False, markup=False)
        self._replicates, self._workers = record.replicates, workers
        self._left = record.n_trials * record.replicates  # runs without a result
        self._lines = not self._console.is_terminal or self._left <= _FEW
        self._running: dict[tuple[int, int], _State] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        self._durations: list[float] = []
        self._live = Live(console=self._console, get_renderable=self._table, auto_refresh=False, transient=True)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def drawn(self, trial: Trial) -> None:
        """A trial has been drawn; some of its replicates may have a result already."""
        there = self._replicates if trial.twin else 0
        for result in trial.results.values():
            if is_over(result):
                there += 1
                self._counts[result["status"]] += 1
        if trial.twin:
            self._counts["duplicate"] += self._replicates
            self.say(f"{trial.title}: duplicate of trial {trial.twin.number}")
        elif there:
            how = f"{trial.status}, {trial.error or 'was there'}" if trial.finished else "goes on"
            self.say(f"{trial.title}: {how}")
        self._left -= there

    def begin(self, run: Run) -> None:
        self._running[run.trial, run.replicate] = _State(run)
        self.tick()

    def advance(self, run: Run, number: int, accuracy: float | None, uplink: int, downlink: int) -> None:
        """A round has ended; `accuracy` is that of the last evaluation, bits are cumulative."""
        state = self._running[run.trial, run.replicate]
        state.round, state.accuracy, state.bits = number, accuracy, uplink + downlink
        if self._lines and accuracy is not None and number % run.config.evaluate_every == 0:
            sent = f"accuracy {accuracy:.4f}  up {format_bits(uplink)}  down {format_bits(downlink)}"
            self.say(f"{run.title} round {number}/{state.rounds}  {sent}  {self._time_left()}")

    def finish(self, run: Run, result: dict) -> None:
        state = self._running.pop((run.trial, run.replicate))
        self._durations.append(time.monotonic() - state.started)
        self._counts[result["status"]] += 1
        self._left -= 1
        accuracy = result.get("test_accuracy")
        shown = [f"accuracy {accuracy:.4f}", format_bits(result["total_bits"])] if accuracy is not None else []
        error = [result["error"]] if result.get("error") else []
        self.say(f"{run.title}: {result['status']}  " + "  ".join([*shown, *error, self._summary()]))

    def tick(self) -> None:
        """Shows how things stand, on a terminal."""
        if self._live.is_started:
            self._live.refresh()

    def _summary(self) -> str:
        counts = [f"{number} {status}" for status, number in sorted(self._counts.items())]
        return f"[{', '.join([*counts, f'{self._left} to do'])}; {self._time_left()}]"

    def _time_left(self) -> str:
        """From the runs that have ended; before the first has, from those that are furthest."""
        now, durations = time.monotonic(), self._durations
        if not durations:
            running = [state for state in self._running.values() if state.round]
            durations = [(now - state.started) / state.round * state.rounds for state in running]
        if not durations:
            return "time left: not known yet"
        mean = sum(durations) / len(durations)
        spent = sum(min(now - state.started, mean) for state in self._running.values())
        seconds = int(max(0.0, self._left * mean - spent) / self._workers)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def _table(self) -> Group:
        table = Table(title="running", title_justify="left")
        for column in ("run", "round", "accuracy", "bits"):
            table.add_column(column, justify="left" if column == "run" else "right")
        for state in self._running.values():
            table.add_row(*state.cells())
        return Group(table, Text(self._summary()))
