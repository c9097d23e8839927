"""Runs a TFF learning process in TFF's own executor: the reference that the in-process runtime is checked against.

TFF 0.87 cannot measure what it sends (its sizing executor left in 0.48). The sizes follow from the types of the
MapReduceForm that TFF compiles the process to; a message whose size the type does not fix is refused.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import time
from collections.abc import Sequence

import numpy as np
import psutil
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.federated.cohort import ClientData
from fedsweep.runtime import wire
from fedsweep.runtime.base import NotFiniteError, RoundOutcome, Runtime, as_sequence, downlink_bits, outcome

_LATE, _LONGEST = 2.0, 10.0  # seconds


class TffRuntime(Runtime):
    """TFF's local C++ executor; its worker process (about 0.9 GB) ends with `close`, which TFF leaves to chance."""

    def __init__(self, process: tff.learning.templates.LearningProcess, population: int):
        """`population` is the number of clients in the data set."""
        form = tff.backends.mapreduce.get_map_reduce_form_for_computation(process.next)
        self._uplink = wire.Meter(form.work.type_signature.result, wire.UPLINK_KINDS).fixed_bits()
        self._downlink = wire.Meter(form.prepare.type_signature.result, wire.DOWNLINK_KINDS).fixed_bits()
        self._process, self._population = process, population
        self._others = set(_workers())  # not ours to end
        # After an interrupt a thread of TFF's may start a worker when `close` has been here; it has ended at exit.
        atexit.register(_end_workers, self._others)
        self._context = tff.backends.native.create_sync_local_cpp_execution_context()
        try:
            self._state = self._run(process.initialize)
        except BaseException:
            self.close()
            raise

    def _run(self, computation: tff.Computation, *arguments):
        with tff.framework.get_context_stack().install(self._context):
            return computation(*arguments)

    def round(self, clients: Sequence[ClientData], receivers: int | None = None) -> RoundOutcome:
        try:
            output = self._run(self._process.next, self._state, [as_sequence(client) for client in clients])
        except Exception as error:  # TFF's executor has an error of its own for each way to fail
            raise NotFiniteError.of(error) or error from error
        self._state = output.state
        parts = output.metrics
        metrics = {**parts["client_work"]["metrics"], **parts["finalizer"], **parts["aggregator"]}
        # The executor shows no message; what lossless codes send is measured where they are decoded.
        uplink = {kind: bits * len(clients) for kind, bits in self._uplink.items()}
        uplink["update"] += int(metrics["uplink_coded_bits"])
        downlink = dict(self._downlink)
        model = "difference" if "difference" in downlink else "model"
        downlink[model] += int(parts["distributor"]["downlink_coded_bits"])
        return outcome(metrics, uplink, downlink_bits(downlink, receivers or len(clients), self._population))

    def weights(self) -> list[np.ndarray]:
        return [np.asarray(tensor) for tensor in self._state.global_model_weights.trainable]

    def state(self) -> list[np.ndarray]:
        return [np.asarray(tensor) for tensor in tf.nest.flatten(self._state)]

    def restore(self, state: Sequence[np.ndarray]) -> None:
        self._state = tf.nest.pack_sequence_as(self._state, list(state))

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self.close()
        if kind:  # a thread of TFF's that is on its way may replace the worker yet
            _end_workers(self._others, patience=_LATE)

    def close(self) -> None:
        # When the executor is collected, TFF interrupts its worker and waits without a limit: for ever where interrupts
        # are ignored, as by a job in the background. So the worker has ended before.
        _end_workers(self._others)
        self._context = None
        gc.collect()


def _end_workers(others: set[psutil.Process], patience: float = 0.0) -> None:
    """Ends the workers that run now, `others` excepted, those that TFF puts in their place, and those that it starts
    within so many seconds more. They have nothing to put in order."""
    begun = time.monotonic()
    while (running := set(_workers()) - others) or time.monotonic() < begun + patience:
        for worker in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        if time.monotonic() > begun + _LONGEST:
            return
        time.sleep(0.01)


def _workers() -> list[psutil.Process]:
    """TFF's worker processes that this process has started and that run.

    One that has ended stays a zombie until TFF's own clean-up collects it; that clean-up complains if it is gone.
    """
    running = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "worker_binary" and child.status() != psutil.STATUS_ZOMBIE:
                running.append(child)
    return running
