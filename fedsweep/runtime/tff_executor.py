"""Runs a TFF learning process in TFF's own executor: the reference that the in-process runtime is checked against.

TFF 0.87 cannot measure what it sends (its sizing executor left in 0.48). The sizes follow from the types of the same
MapReduceForm that the in-process runtime executes; a message whose size the type does not fix is refused.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import numpy as np
import psutil
import tensorflow_federated as tff

from fedsweep.federated.cohort import ClientData
from fedsweep.runtime import wire
from fedsweep.runtime.base import RoundOutcome, Runtime, as_sequence, outcome


class TffRuntime(Runtime):
    """TFF's local C++ executor; its worker process (about 0.9 GB) ends with `close`, which TFF leaves to chance."""

    def __init__(self, process: tff.learning.templates.LearningProcess):
        form = tff.backends.mapreduce.get_map_reduce_form_for_computation(process.next)
        work_type = form.work.type_signature.result
        self._uplink = wire.by_kind(wire.kinds_of_uplink(work_type), wire.bits_of_type(work_type))
        self._downlink = sum(wire.bits_of_type(form.prepare.type_signature.result))
        self._process = process
        before = set(_workers())
        self._context = tff.backends.native.create_sync_local_cpp_execution_context()
        self._started: list[psutil.Process] = []
        try:
            self._state = self._run(process.initialize)
        finally:
            self._started = [worker for worker in _workers() if worker not in before]

    def _run(self, computation: tff.Computation, *arguments):
        with tff.framework.get_context_stack().install(self._context):
            return computation(*arguments)

    def round(self, clients: Sequence[ClientData]) -> RoundOutcome:
        output = self._run(self._process.next, self._state, [as_sequence(client) for client in clients])
        self._state = output.state
        uplink = {kind: bits * len(clients) for kind, bits in self._uplink.items()}
        metrics = {**output.metrics["client_work"]["metrics"], **output.metrics["finalizer"]}
        return outcome(metrics, uplink, self._downlink * len(clients))

    def weights(self) -> list[np.ndarray]:
        return [np.asarray(tensor) for tensor in self._state.global_model_weights.trainable]

    def close(self) -> None:
        # TFF ends its worker when the executor that holds it is collected; what survives that is ended by its id.
        self._context = None
        gc.collect()
        for worker in self._started:
            if worker.is_running():
                worker.terminate()
        psutil.wait_procs(self._started, timeout=10)


def _workers() -> list[psutil.Process]:
    """TFF's worker processes that this process has started."""
    return [child for child in psutil.Process().children() if child.name() == "worker_binary"]
