"""Where results go: always the files of the run's own folder (`run_folder`), and trackers beside them.

`start` gives the trackers of one run. MLflow: `mlflow_store` reaches the store, `mlflow_run` says what a run looks like
there, `mlflow_tracker` writes it while the run goes on, `sync` afterwards. `tensorboard` is TensorBoard's.
"""

from __future__ import annotations

from fedsweep import schema, store
from fedsweep.errors import UserError
from fedsweep.tracking.base import About, Place, Tracker, Trackers

__all__ = ["About", "Place", "Tracker", "Trackers", "check", "end", "start"]


def check(config: schema.Config) -> None:
    """Raises `UserError` if a configured tracker cannot be used; before anything is written."""
    if config.tracker.mlflow:
        from fedsweep.tracking import mlflow_store

        client, experiment = mlflow_store.connect(config.tracker)
        mlflow_store.close_dead(client, [experiment])
        print(f"MLflow: {store.named(config.tracker.uri)}", flush=True)


def end(config: schema.Config, run_id: str | None, status: str) -> list[str]:
    """Closes a run at the tracker whose process died without a word; what the tracker does not know of it now."""
    if not config.tracker.mlflow:
        return []
    from fedsweep.tracking import mlflow_store

    lost = ["what its process had not delivered yet"]
    try:
        client, _ = mlflow_store.connect(config.tracker)
    except UserError as error:
        return [str(error)]
    if run_id:
        mlflow_store.end(client, run_id, status, lost)
    return lost


def start(config: schema.Config, about: About) -> Tracker:
    """The trackers that the configuration names. Rounds that a run's tracker knows already are not logged again."""
    trackers: list[Tracker] = []
    if config.tracker.mlflow:
        from fedsweep.tracking.mlflow_tracker import MlflowTracker

        trackers.append(MlflowTracker(config, about))
    if config.tracker.tensorboard:
        from fedsweep.tracking.tensorboard import TensorBoardTracker

        trackers.append(TensorBoardTracker(about))
    return Trackers(trackers)
