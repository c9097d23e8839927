"""Stops a run early when others have shown that its bits are better spent: pruning for two objectives.

A run's curve is its test accuracy against the bits it has sent in total. At an evaluation it is behind if another trial
reached more, by a margin, for no more bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fedsweep import schema
from fedsweep.tracking.run_folder import RoundRow


class Pruned(Exception):
    """The run stops here; its rounds so far are kept."""


class DominancePruner:
    """Holds what other trials reached: the most accurate evaluation for at most so many bits."""

    def __init__(self, config: schema.DominancePruner, others: Iterable[Sequence[RoundRow]]):
        """`others`: the rounds of other trials' runs, of the same replicate: they saw the same clients."""
        self._config = config
        points = sorted((row.total_bits, _accuracy(row)) for rows in others for row in _evaluated(rows))
        self._bits = np.array([bits for bits, _ in points], np.int64)
        self._best = np.maximum.accumulate([accuracy for _, accuracy in points]) if points else np.zeros(0)

    def reached(self, bits: int) -> float:
        """The best accuracy of the others for at most `bits`; minus infinity if none was evaluated so early."""
        count = int(np.searchsorted(self._bits, bits, side="right"))
        return float(self._best[count - 1]) if count else -np.inf

    def check(self, rows: Sequence[RoundRow]) -> None:
        """Raises `Pruned` if the run with these rounds was behind at each of its last `patience` evaluations."""
        recent = _evaluated(rows)[-self._config.patience :]
        if rows[-1].round < self._config.min_rounds or len(recent) < self._config.patience:
            return
        if all(_accuracy(row) < self.reached(row.total_bits) - self._config.margin for row in recent):
            last = recent[-1]
            raise Pruned(
                f"round {last.round}: accuracy {_accuracy(last):.4f} where another trial reached"
                f" {self.reached(last.total_bits):.4f} for no more bits"
            )


def _accuracy(row: RoundRow) -> float:
    """What is chosen by: the validation set where there is one."""
    return row.test_accuracy if row.validation_accuracy is None else row.validation_accuracy


def _evaluated(rows: Sequence[RoundRow]) -> list[RoundRow]:
    return [row for row in rows if row.test_accuracy is not None]
