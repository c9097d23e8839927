"""What every tracker offers."""

from __future__ import annotations

import abc

from fedsweep.tracking.run_folder import RoundRow


class Tracker(abc.ABC):
    """One run at a tracker."""

    run_id: str | None = None

    @abc.abstractmethod
    def log_round(self, row: RoundRow) -> None:
        """Takes the metrics of a round."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Delivers what has been taken."""

    @abc.abstractmethod
    def finish(self, status: str) -> None:
        """Ends the run with one of the statuses of result.json; nothing is logged after it."""


class NoTracker(Tracker):
    """`tracker=csv`: the files of the run's folder are all there is."""

    def log_round(self, row: RoundRow) -> None:
        """rounds.csv has it."""

    def flush(self) -> None:
        """Nothing waits."""

    def finish(self, status: str) -> None:
        """result.json has it."""
