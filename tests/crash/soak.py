"""Many trials in one worker: its memory, descriptors and threads, seen from outside, must not grow with the trials."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from dataclasses import dataclass

import psutil

from .compare import Counts, check_place, check_streams
from .sweeps import Lab, Place, Process, cleared, trials

_FIRST = 10  # trials after which everything has been loaded that ever will be
_GROWTH = 1.10  # of the memory after the first trials
_WIDTHS = (2, 3, 4, 6, 8)  # each has graphs of its own, and each comes again


@dataclass(frozen=True)
class _Sample:
    trials: int  # that have ended
    memory: int  # bytes
    descriptors: int
    threads: int


def soak(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """200 trials in one worker."""
    number = 40 if short else 200
    counts = Counts(tries=number)
    with cleared(lab.place("soak")) as place:
        place.use_ready_store()
        process = place.command(
            sys.executable, "-m", "fedsweep", "-m", "rounds=1", "evaluate_every=1", "model=2nn", "clients_per_round=2",
            "encoder.threshold=1000", "runtime.threads=1", f"sweep.trials_per_worker={number}", "sweep.max_workers=1",
            f"seed=range({number // len(_WIDTHS)})", f"encoder.bits={','.join(map(str, _WIDTHS))}",
            "hydra.sweep.dir=multirun_outputs/sweep",
        )  # fmt: skip
        samples = list(_samples(place, process))
        if (status := process.wait()) != 0:
            counts.note("lost", f"the sweep ends with {status}: {' | '.join(process.errors())[-300:]}")
        if missing := number - sum(row["status"] == "complete" for row in trials(place.sweep())):
            counts.note("lost", f"{missing} of {number} trials are not complete")
        _judge(samples, number, counts)
        check_streams(place, counts)
        check_place(place, counts)
    return counts


def _samples(place: Place, process: Process):
    """The worker, a few times a second while it runs trials."""
    workers = set()
    while not process.ended:
        ended = sum(row["status"] == "complete" for row in trials(place.sweep()))
        for worker in process.workers():
            workers.add(worker.pid)
            with contextlib.suppress(psutil.Error):
                yield _Sample(ended, worker.memory_info().rss, worker.num_fds(), worker.num_threads())
        time.sleep(0.05)
    if len(workers) != 1:
        raise AssertionError(f"{len(workers)} workers instead of one")


def _judge(samples: list[_Sample], number: int, counts: Counts) -> None:
    """Between trials files are open and threads run for moments: the least of a stretch is what stays."""
    stretch = max(_FIRST, number // 5)
    early = [sample for sample in samples if _FIRST <= sample.trials < _FIRST + stretch]
    late = [sample for sample in samples if number - stretch <= sample.trials < number]
    if not early or not late:
        counts.note("wrong", f"{len(samples)} samples do not cover the trials")
        return
    most = max(sample.memory for sample in late) / early[0].memory
    if most > _GROWTH:
        counts.note("left behind", f"memory: {most:.3f} times that after {_FIRST} trials")
    for what in ("descriptors", "threads"):
        then, now = (min(getattr(sample, what) for sample in part) for part in (early, late))
        if now > then:
            counts.note("left behind", f"{what}: {then} after {_FIRST} trials, {now} at the end")
