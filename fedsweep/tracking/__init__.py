"""Where results go: always the files of the run's own folder (`run_folder`), and a tracker beside them.

`start` gives the tracker of one run; `fedsweep.tracking.mlflow_store` holds what is MLflow's.
"""

from __future__ import annotations

from fedsweep import schema
from fedsweep.tracking.base import NoTracker, Tracker

__all__ = ["Tracker", "start"]


def start(config: schema.Config, name: str, parent: str | None) -> Tracker:
    """The tracker that the configuration names; `parent` is the tracker's run of the sweep this run belongs to."""
    if isinstance(config.tracker, schema.CsvTracker):
        return NoTracker()
    from fedsweep.tracking.mlflow_store import MlflowTracker

    return MlflowTracker(config, name, parent)
