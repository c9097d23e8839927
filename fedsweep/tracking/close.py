"""Closes the runs at MLflow that a killed sweep has left open. `after_death` starts it as a process of its own.

A worker whose sweep was killed must end at once: another process may already go on with its run. What talks to the
tracker, maybe slowly, is this process; it closes only runs whose process has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from fedsweep import schema

_SECONDS = 60  # it gives up then


def after_death(config: schema.Config) -> None:
    """Starts a process that closes what this process and its sweep leave open, as soon as this process has ended."""
    if config.tracker.mlflow:
        closer = subprocess.Popen(
            [sys.executable, "-m", "fedsweep.tracking.close", str(os.getpid())],
            stdin=subprocess.PIPE,  # command lines can be read by everybody
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        closer.stdin.write(json.dumps(vars(config.tracker)).encode())
        closer.stdin.close()


def main(parent: int, tracker: schema.Tracker) -> None:
    signal.alarm(_SECONDS)
    from fedsweep.tracking import mlflow_store

    client, experiment = mlflow_store.connect(tracker)
    while os.getppid() == parent:
        time.sleep(0.05)
    mlflow_store.close_dead(client, [experiment])


if __name__ == "__main__":
    main(int(sys.argv[1]), schema.Tracker(**json.load(sys.stdin)))
