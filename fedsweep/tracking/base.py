"""What every tracker offers, and what it is told of a run."""

from __future__ import annotations

import abc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsweep.tracking.run_folder import CLIENT_QUANTILES, RoundRow

if TYPE_CHECKING:
    from fedsweep.pruning import DominancePruner


@dataclass(frozen=True)
class Place:
    """Where a run of a sweep belongs: it may go on with what its folder holds, and does not insist on its tracker."""

    sweep: str  # its name
    parent: str | None  # the tracker's run of the sweep
    trial: int
    replicate: int
    point: Mapping[str, str]  # what is swept, with this trial's values
    pruner: DominancePruner | None = None


@dataclass(frozen=True)
class About:
    """A run, as its trackers present it."""

    name: str
    folder: Path  # with config.yaml in it already
    environment: Mapping  # environment.json
    plan: Mapping  # `Plan.as_dict`
    run_id: str | None = None  # MLflow's, of a run that was cut off and goes on
    sweep: Place | None = None


# A round's columns as metrics. Bits come last, total at the end: where a tracker has it, it has the whole round.
METRICS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "test_loss": "test/loss",
    "test_accuracy": "test/accuracy",
    **{name: name.replace("_", "/", 1) for name in CLIENT_QUANTILES},
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
    "bad_updates": "train/bad_updates",
    "uplink_width": "bits/uplink_width",
    "uplink_bits": "bits/uplink",
    "downlink_bits": "bits/downlink",
    "total_bits": "bits/total",
}


def metrics(row: RoundRow) -> dict[str, float]:
    """name -> value of what the round has measured."""
    values = {name: getattr(row, column) for column, name in METRICS.items()}
    return {name: value for name, value in values.items() if value is not None}


class Tracker(abc.ABC):
    """One run at a tracker."""

    run_id: str | None = None  # MLflow's

    def __init__(self):
        self.lost: list[str] = []  # what could not be delivered, a line each, once the run has finished

    @abc.abstractmethod
    def log_round(self, row: RoundRow) -> None:
        """Takes the metrics of a round."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Delivers what has been taken."""

    @abc.abstractmethod
    def finish(self, status: str) -> None:
        """Ends the run with one of the statuses of result.json; nothing is logged after it."""


class Trackers(Tracker):
    """Several at once; without any, the files of the run's folder are all there is (`tracker=csv`)."""

    def __init__(self, trackers: Sequence[Tracker]):
        super().__init__()
        self._trackers = list(trackers)
        self.run_id = next((tracker.run_id for tracker in trackers if tracker.run_id), None)

    def log_round(self, row: RoundRow) -> None:
        self._each(lambda tracker: tracker.log_round(row))

    def flush(self) -> None:
        self._each(lambda tracker: tracker.flush())

    def finish(self, status: str) -> None:
        trackers = list(self._trackers)
        self._each(lambda tracker: tracker.finish(status))
        self.lost += [line for tracker in trackers for line in tracker.lost]

    def _each(self, call: Callable[[Tracker], None]) -> None:
        """A tracker that fails (a full disk, say) is told nothing more; the run, which has its own files, goes on."""
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:
                stops = f"{type(tracker).__name__} stops: {error}"
                print(f"fedsweep: {stops}; the run goes on", file=sys.stderr)
                self.lost.append(stops)
                self._trackers.remove(tracker)
