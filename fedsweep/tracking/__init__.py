"""Where results go: always the files of the run's own folder (`run_folder`), and trackers beside them.

`start` gives the trackers of one run; `mlflow_store` holds what is MLflow's, `tensorboard` what is TensorBoard's.
"""

from __future__ import annotations

from fedsweep import schema, store
from fedsweep.tracking.base import About, Tracker, Trackers

__all__ = ["About", "Tracker", "Trackers", "check", "end", "start"]


def check(config: schema.Config) -> None:
    """Raises `UserError` if a configured tracker cannot be used; before anything is written."""
    if config.tracker.mlflow:
        from fedsweep.tracking import mlflow_store

        client, experiment = mlflow_store.connect(config.tracker)
        mlflow_store.close_dead(client, [experiment])
        print(f"MLflow: {store.named(config.tracker.uri)}", flush=True)


def end(config: schema.Config, run_id: str | None, status: str) -> None:
    """Closes a run at the tracker that died without a word."""
    if config.tracker.mlflow and run_id:
        from fedsweep.tracking import mlflow_store

        client, _ = mlflow_store.connect(config.tracker)
        mlflow_store.end(client, run_id, status)


def start(config: schema.Config, about: About) -> Tracker:
    """The trackers that the configuration names. Rounds that a run's tracker knows already are not logged again."""
    trackers: list[Tracker] = []
    if config.tracker.mlflow:
        from fedsweep.tracking.mlflow_store import MlflowTracker

        trackers.append(MlflowTracker(config, about))
    if config.tracker.tensorboard:
        from fedsweep.tracking.tensorboard import TensorBoardTracker

        trackers.append(TensorBoardTracker(about))
    return Trackers(trackers)
