"""Closes the runs at MLflow that a sweep or a run leaves open when it is killed.

`watched` starts a process that waits for the end of the one that started it, for as long as that may take: until then
it has loaded nothing but what stands below (10 MB). It runs as a file, not as a module of the package, whose import
would load more. Only runs whose process has ended are closed: another one may already go on with the sweep.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from fedsweep import schema

_SECONDS = 60  # after a kill; it gives up then
_PASSES = (0, 1, 4)  # seconds before each look: a worker notices the end of its sweep a moment later
_DONE = b"done\n"


@contextlib.contextmanager
def watched(tracker: schema.Tracker) -> Iterator[None]:
    """If this process is killed in here, what it and its workers leave open at the tracker is closed within seconds."""
    if not tracker.mlflow:
        yield
        return
    reader, writer = os.pipe()  # no process inherits the end that is written to: it closes when this one has ended
    with os.fdopen(reader, "rb") as theirs:
        watcher = subprocess.Popen(
            [sys.executable, "-P", __file__],  # -P: the modules beside this file are no packages of their names
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what ends this process and its group does not end it
        )
    with os.fdopen(writer, "wb", buffering=0) as pipe:
        _tell(pipe, json.dumps(vars(tracker)).encode() + b"\n")  # no argument: those are seen by all users
        try:
            yield
        finally:
            _tell(pipe, _DONE)
            watcher.wait()


def _tell(pipe: BinaryIO, line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # somebody has ended the process
        pipe.write(line)


def main() -> None:
    tracker, word = sys.stdin.buffer.readline(), sys.stdin.buffer.readline()
    if word == _DONE or not tracker:
        return
    signal.alarm(_SECONDS)
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120
    from fedsweep import schema
    from fedsweep.tracking import mlflow_store

    client, experiment = mlflow_store.connect(schema.Tracker(**json.loads(tracker)))
    for pause in _PASSES:
        time.sleep(pause)
        mlflow_store.close_dead(client, [experiment])


if __name__ == "__main__":
    main()
