"""A process that runs trials, one after another, for the sweep that started it. TensorFlow is imported once.

The sweep talks to it through a socket. It sends a `Run`, a configuration to plan, or None to end; the worker answers
with (kind, content) pairs, at last ("done", result) or ("not written", error), ("plan", plan) or ("no plan", why). When
the socket closes, the sweep has died: the worker ends at once with what it has started (`tracking.close` tells the
tracker).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from fedsweep import importing, interrupts, schema, secrets, streams
from fedsweep.errors import NotWritten
from fedsweep.files import writing
from fedsweep.progress import Progress
from fedsweep.sweep.engine import Run


class _Reporter(Progress):
    """Tells the sweep how a run goes."""

    live = True

    def __init__(self, connection: Connection):
        self._connection = connection

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, *_) -> None:
        pass

    def say(self, line: str) -> None:
        print(line, flush=True)  # into the run's log

    def warn(self, line: str) -> None:
        self.say(line)
        _tell(self._connection, "warns", line)

    def untracked(self, line: str) -> None:
        _tell(self._connection, "untracked", line)  # the run's log has it already

    def go_on(self, rounds: int) -> None:
        print(f"goes on after round {rounds}", flush=True)
        _tell(self._connection, "goes on", rounds)

    def advance(self, round_number: int, accuracy: float | None, uplink_bits: int, downlink_bits: int) -> None:
        _tell(self._connection, "round", (round_number, accuracy, uplink_bits, downlink_bits))


def _tell(connection: Connection, kind: str, content: object) -> None:
    """If nobody listens, the sweep has died and this process is about to end: nothing may happen to the run before."""
    try:
        connection.send((kind, content))
    except OSError:
        threading.Event().wait()


def main(descriptor: int) -> None:
    streams.guard()
    interrupts.handle(signal.SIGINT)  # a shell's background job would ignore it
    connection = Connection(descriptor)
    sys.argv[:] = connection.recv()  # the sweep's command, for environment.json
    # An interrupt that comes between runs has nothing to put in order; one within a run is recorded there.
    with secrets.guarded(), contextlib.suppress(KeyboardInterrupt):
        _work(connection)


def _work(connection: Connection) -> None:
    """Plans and runs what the sweep sends, until it says that there is no more."""
    runs: queue.SimpleQueue[Run | schema.Config | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, runs), daemon=True).start()

    with importing.quickly():
        from fedsweep import job, trial  # noqa: F401  TensorFlow and TFF load while the sweep plans

    _tell(connection, "ready", None)
    while (run := runs.get()) is not None:
        secrets.learn(dataclasses.asdict(run if isinstance(run, schema.Config) else run.config))
        if isinstance(run, schema.Config):
            try:
                _tell(connection, "plan", job.plan(run))
            except Exception as error:
                _tell(connection, "no plan", f"{type(error).__name__}: {error}")
            continue
        try:
            with writing(run.folder):
                run.folder.mkdir(parents=True, exist_ok=True)
            with writing(run.folder / "log.txt"):
                _log_to(run.folder / "log.txt")
            result = job.run_trial(run, _Reporter(connection))
        except KeyboardInterrupt:
            return  # the run's folder says interrupted
        except NotWritten as error:
            _tell(connection, "not written", error)
            continue
        _tell(connection, "done", result)


def _receive(connection: Connection, runs: queue.SimpleQueue) -> None:
    """Hands on what the sweep sends. Waiting for it, in a thread of its own, shows the sweep's death at once."""
    try:
        while True:
            runs.put(connection.recv())
    finally:  # the sweep has died, or what it sends cannot be read
        try:
            for child in psutil.Process().children(recursive=True):  # TFF's own worker
                child.kill()
        finally:
            os._exit(1)


def _log_to(path: Path) -> None:
    """What this process prints goes to the run's log: the terminal belongs to the sweep."""
    private = 0o600 if secrets.has_any() else 0o666
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags, private)) as log:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)


if __name__ == "__main__":
    main(int(sys.argv[1]))
