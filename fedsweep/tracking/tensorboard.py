"""Runs as TensorBoard's event files, in the folder `tensorboard` of the run."""

from __future__ import annotations

import tensorflow as tf

from fedsweep import secrets
from fedsweep.errors import UserError
from fedsweep.tracking.base import About, Tracker, metrics
from fedsweep.tracking.run_folder import RoundRow


class TensorBoardTracker(Tracker):
    """The metrics that MLflow gets, at step = round. A run that goes on is told its rounds again, into new files."""

    def __init__(self, about: About):
        super().__init__()
        folder = about.folder / "tensorboard"
        try:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = tf.summary.create_file_writer(str(folder))
            config = (about.folder / "config.yaml").read_text()
            with self._writer.as_default(step=0):
                tf.summary.text("config", f"```\n{config}\n```")
            self._writer.flush()
            if secrets.MASK in config:  # as `files` does it
                for path in folder.glob("events.out.tfevents.*"):
                    path.chmod(0o600)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"tracker=tensorboard: {folder} cannot be written ({error})") from error

    def log_round(self, row: RoundRow) -> None:
        with self._writer.as_default(step=row.round):
            for name, value in metrics(row).items():
                tf.summary.scalar(name, value)

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, status: str) -> None:
        with self._writer.as_default(step=0):
            tf.summary.text("status", status)
        self._writer.close()
