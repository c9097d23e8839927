"""Runs the runs of a sweep in long-lived processes on this machine: as soon as one is free it gets the next run."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing.connection
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

import psutil

from fedsweep import environment, schema, tracking
from fedsweep.errors import SweepFailed, UserError
from fedsweep.sweep.board import Board
from fedsweep.sweep.engine import Engine, Run
from fedsweep.sweep.record import record_failure
from fedsweep.tracking.run_folder import is_over, trusted_result

_MEMORY = 2 * 1024**3  # bytes that a worker is expected to need: TensorFlow, TFF, a model and its clients
_ATTEMPTS = 3  # workers that may die over a plan
_STILLBORN = 3  # workers that die in a row while they start; then something is wrong that no retry mends
_PATIENCE = 60.0  # seconds for interrupted runs to write what they have


class Worker:
    """One process. Its children (TFF's own worker) are in its session, so they can be ended with it."""

    def __init__(self, variables: Mapping[str, str]):
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedsweep.sweep.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **variables},
                start_new_session=True,  # Ctrl-C is for the sweep, which tells its workers
                stdin=subprocess.DEVNULL,
            )
        self.connection = multiprocessing.connection.Connection(ours.detach())
        self.connection.send(sys.argv)
        self.ready = False
        self.run: Run | None = None
        self.last_trial: int | None = None
        self.runs = 0

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def ended_by_itself(self) -> bool:
        return self._process.poll() == 0

    def start(self, run: Run) -> None:
        self.connection.send(run)
        self.run, self.last_trial, self.runs = run, run.trial, self.runs + 1

    def interrupt(self) -> None:
        """Asks a running run to end; it says so in its folder. There is no next run."""
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self._process.send_signal(signal.SIGINT)

    def wait(self, seconds: float) -> None:
        """Returns when the process has ended, or after so many seconds. What it still reports is read and dropped."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll(max(0.0, deadline - time.monotonic())):
                self.connection.recv()

    def dismiss(self) -> None:
        """Asks it to end; one that is only starting has nothing to put in order."""
        if self.run:
            self.interrupt()
        elif self.ready:
            with contextlib.suppress(OSError):
                self.connection.send(None)
        else:
            self._process.kill()

    def end(self) -> None:
        """The process and whatever it started are gone when this returns."""
        self.dismiss()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):  # nobody of its session is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.connection.close()

    def death(self) -> str:
        """How a process ended that should not have."""
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:  # it hangs on its way out
            self._process.kill()
            code = self._process.wait()
        if code >= 0:
            return f"its process ended with status {code}; log.txt has what it said"
        name = signal.Signals(-code).name
        return f"its process was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")


def count(settings: schema.Sweep, threads: int | None, at_once: int) -> int:
    """How many workers a sweep gets: as asked for, or by cores and memory; never more than there are runs for.

    Args:
      settings: of the sweep.
      threads: a run's own (`runtime.threads`), if it says.
      at_once: runs that can go on at the same time.
    """
    if settings.max_workers:
        return min(settings.max_workers, at_once)
    by_cores = len(os.sched_getaffinity(0)) // (threads or 1)
    return max(1, min(by_cores, psutil.virtual_memory().available // _MEMORY, at_once))


class Pool:
    """The workers of a sweep. A context manager: leaving it ends them all."""

    def __init__(self, workers: int, threads: int, settings: schema.Sweep):
        self._variables = environment.tensorflow_variables(threads)
        self._settings, self.threads = settings, threads
        self._stillborn = 0
        self.untracked: list[str] = []  # what trackers could not be told, a line each
        self._workers = [Worker(self._variables) for _ in range(workers)]

    @property
    def size(self) -> int:
        return len(self._workers)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_) -> None:
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            worker.end()

    def plan(self, config: schema.Config) -> dict:
        """A configuration's plan (`Plan.as_dict`), made by a worker that has nothing to do: TensorFlow is there."""
        why = ""
        for _ in range(_ATTEMPTS):
            position = next(k for k, worker in enumerate(self._workers) if worker.run is None)
            worker = self._workers[position]
            try:
                worker.connection.send(config)
                kind, content = worker.connection.recv()
                if kind == "ready":
                    self._ready(worker)
                    kind, content = worker.connection.recv()
            except (EOFError, OSError):
                why = self._replace(position)
                continue
            if kind == "plan":
                return content
            raise UserError(f"no plan could be made: {content}")
        raise SweepFailed(f"workers end over a plan: {why}; sweep.resume=latest goes on")

    def work(self, engine: Engine, board: Board) -> None:
        """Draws trials and runs them until the engine is done.

        After Ctrl-C, or if something goes wrong here, the runs under way are asked to end and recorded as interrupted
        before the exception goes on.
        """
        waiting: list[Run] = []
        deaths: collections.Counter[tuple[int, int]] = collections.Counter()
        try:
            while not engine.done:
                for position in range(len(self._workers)):
                    if self._workers[position].run is None and (run := self._next(engine, board, waiting, position)):
                        if self._workers[position].runs >= self._settings.trials_per_worker:
                            self._workers[position].end()
                            self._workers[position] = Worker(self._variables)
                        try:
                            self._workers[position].start(run)
                        except OSError:  # it has died while it had nothing to do
                            waiting.insert(0, run)
                            self._replace(position)
                            continue
                        engine.begin(run)
                        board.begin(run)
                if any(worker.run for worker in self._workers):
                    self._wait(engine, board, waiting, deaths)
        except BaseException:
            self._interrupt(engine, board)
            raise
        for worker in self._workers:  # already: TensorFlow takes a second to end, while figures are drawn
            worker.dismiss()

    def _next(self, engine: Engine, board: Board, waiting: list[Run], position: int) -> Run | None:
        """The run that suits a worker best; trials are drawn until there is one that no other worker has begun.

        Best is a replicate of the worker's last trial, which has its graphs; else one of a trial of its own.
        """
        last = self._workers[position].last_trial
        others = {other.last_trial for k, other in enumerate(self._workers) if k != position}
        while True:
            same = [run for run in waiting if run.trial == last]
            fresh = [run for run in waiting if run.trial not in others]
            if same or fresh or not engine.may_draw():
                break
            trial = engine.draw()
            waiting += [self._pinned(run) for run in engine.runs(trial)]
            board.drawn(trial)
        run = next(iter(same or fresh or waiting), None)
        if run:
            waiting.remove(run)
        return run

    def _pinned(self, run: Run) -> Run:
        """The run with as many threads as its worker's TensorFlow has been given."""
        if isinstance(run.config.runtime, schema.MapReduceRuntime):
            runtime = dataclasses.replace(run.config.runtime, threads=self.threads)
            return dataclasses.replace(run, config=dataclasses.replace(run.config, runtime=runtime))
        return run

    def _wait(self, engine: Engine, board: Board, waiting: list[Run], deaths: collections.Counter) -> None:
        """Takes in what workers report."""
        by_connection = {worker.connection: position for position, worker in enumerate(self._workers)}
        for connection in multiprocessing.connection.wait(list(by_connection), timeout=1.0):
            worker = self._workers[by_connection[connection]]
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                self._bury(by_connection[connection], engine, board, waiting, deaths)
                continue
            if kind == "ready":
                self._ready(worker)
            elif kind == "round":
                board.advance(worker.run, *content)
            elif kind == "goes on":
                board.say(f"{worker.run.title} goes on after round {content}")
            elif kind == "warns":
                board.say(f"{worker.run.title}: {content}")
            elif kind == "not written":
                raise content
            elif kind == "untracked":
                self.untracked.append(f"{worker.run.title}: {content}")
            elif kind == "done":
                run, worker.run = worker.run, None
                engine.finish(run, content)
                board.finish(run, content)
        board.tick()

    def _ready(self, worker: Worker) -> None:
        worker.ready, self._stillborn = True, 0

    def _replace(self, position: int) -> str:
        """Puts a new worker in the place of one that has died; how it died."""
        worker = self._workers[position]
        death = worker.death()
        worker.end()
        self._stillborn += not worker.ready
        if self._stillborn > _STILLBORN:
            raise SweepFailed(f"workers end before they can run anything: {death}; sweep.resume=latest goes on")
        self._workers[position] = Worker(self._variables)
        return death

    def _bury(
        self, position: int, engine: Engine, board: Board, waiting: list[Run], deaths: collections.Counter
    ) -> None:
        """A worker has died: its run starts again, from its last checkpoint, or has failed."""
        run, ready = self._workers[position].run, self._workers[position].ready
        death = self._replace(position)
        if run is None:
            return
        deaths[run.trial, run.replicate] += ready  # one that was only starting had not begun it
        result = trusted_result(run.folder)
        if not is_over(result):
            if deaths[run.trial, run.replicate] <= self._settings.retries:
                board.say(f"{run.title}: {death}; it starts again")
                waiting.insert(0, run)
                return
            result = record_failure(run.folder, death)
        self._end_at_tracker(run, result)  # one that died on its way out may not have said how it ended
        engine.finish(run, result)
        board.finish(run, result)

    def _end_at_tracker(self, run: Run, result: Mapping) -> None:
        """Closes the run of a process that died without a word."""
        lost = tracking.end(run.config, result.get("mlflow_run_id"), result["status"])
        self.untracked += [f"{run.title}: {line}" for line in lost]

    def _interrupt(self, engine: Engine, board: Board) -> None:
        running = [worker for worker in self._workers if worker.run]
        if running:
            board.say(f"interrupted: {len(running)} runs write what they have")
        deadline = time.monotonic() + _PATIENCE
        while any(worker.alive for worker in running) and time.monotonic() < deadline:
            for worker in running:  # a library that is just compiling may swallow it, so it is said more than once
                worker.interrupt()
            for worker in running:
                worker.wait(_PATIENCE / 6 / len(running))
        for worker in running:
            run, worker.run = worker.run, None
            result = trusted_result(run.folder)
            if result and not worker.ended_by_itself:  # its run would stay open at the tracker
                worker.end()
                result = result if is_over(result) else {**result, "status": "interrupted"}
                self._end_at_tracker(run, result)
            engine.finish(run, result)
