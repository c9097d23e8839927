"""Where results go: always the files of the run's own folder (`run_folder`), and a tracker beside them.

`start` gives the tracker of one run; `fedsweep.tracking.mlflow_store` holds what is MLflow's.
"""

from __future__ import annotations

from fedsweep import schema
from fedsweep.tracking.base import NoTracker, Tracker

__all__ = ["NoTracker", "Tracker", "check", "end", "start"]


def check(config: schema.Config) -> None:
    """Raises `UserError` if the configured tracker cannot be used; before anything is written."""
    if isinstance(config.tracker, schema.MlflowTracker):
        from fedsweep.tracking import mlflow_store

        mlflow_store.connect(config.tracker)


def end(config: schema.Config, result: dict) -> None:
    """Closes the tracker's run of a run that died without a word; `result` is what is known of it."""
    if isinstance(config.tracker, schema.MlflowTracker) and result.get("mlflow_run_id"):
        from fedsweep.tracking import mlflow_store

        client, _ = mlflow_store.connect(config.tracker)
        mlflow_store.end(client, result["mlflow_run_id"], result["status"])


def start(config: schema.Config, name: str, parent: str | None, run_id: str | None = None) -> Tracker:
    """The tracker that the configuration names.

    `parent` is the tracker's run of the sweep that this run belongs to. `run_id` is the tracker's run of this run, if
    that was cut off and goes on: rounds that it knows already are not logged again.
    """
    if isinstance(config.tracker, schema.CsvTracker):
        return NoTracker()
    from fedsweep.tracking.mlflow_store import MlflowTracker

    return MlflowTracker(config, name, parent, run_id)
