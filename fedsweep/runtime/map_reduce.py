"""Runs a TFF learning process in this process, through its MapReduceForm.

TFF compiles `process.next` into `prepare` (server), `work` (each client), `accumulate` and `report` (aggregation) and
`update` (server). What `prepare` returns is what the server sends, what `work` returns is what a client sends: the wire
meter reads bits off exactly these tensors.
"""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.federated.cohort import ClientData
from fedsweep.runtime import types, wire
from fedsweep.runtime.base import RoundOutcome, Runtime, as_sequence, outcome
from fedsweep.runtime.graphs import as_function


class CompiledProcess:
    """A process as TensorFlow functions. It holds no state, so runs that differ in their seed alone can share it."""

    def __init__(self, process: tff.learning.templates.LearningProcess):
        form = tff.backends.mapreduce.get_map_reduce_form_for_computation(process.next)
        initialize = tff.backends.mapreduce.get_state_initialization_computation(process.initialize)
        self.prepare, self.work = as_function(form.prepare), as_function(form.work)
        self.zero, self.accumulate = as_function(form.zero), as_function(form.accumulate)
        self.report, self.update = as_function(form.report), as_function(form.update)
        self.kinds = wire.kinds_of_uplink(form.work.type_signature.result)
        self.metric_names = [path[-1] for path in types.paths(form.update.type_signature.result[1])]
        self.initial_state = as_function(initialize)()
        self.state_paths = types.paths(initialize.type_signature.result)
        self.weights = len(process.get_model_weights.type_signature.result.trainable)  # a state begins with them


class MapReduceRuntime(Runtime):
    """Clients of a round train side by side in `threads` threads; their updates are summed in the cohort's order."""

    def __init__(self, process: CompiledProcess, state: Sequence[tf.Tensor], threads: int):
        self._process, self._state, self._threads = process, list(state), threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="client")

    def round(self, clients: Sequence[ClientData]) -> RoundOutcome:
        process = self._process
        broadcast = process.prepare(*self._state)
        total, uplink = process.zero(), collections.Counter()
        for update in self._work_of(clients, broadcast):
            uplink.update(wire.by_kind(process.kinds, wire.bits_of_tensors(update)))
            total = process.accumulate(*total, *update)
        outputs = process.update(*self._state, *process.report(*total))
        self._state = outputs[: len(self._state)]
        metrics = dict(zip(process.metric_names, outputs[len(self._state) :], strict=True))
        downlink = sum(wire.bits_of_tensors(broadcast)) * len(clients)
        return outcome(metrics, dict(uplink), downlink)

    def _work_of(self, clients: Sequence[ClientData], broadcast: Sequence[tf.Tensor]) -> Iterator[Sequence[tf.Tensor]]:
        """What each client sends, in order. One update a thread waits at most: memory does not grow with clients."""

        def work(client: ClientData) -> Sequence[tf.Tensor]:
            return self._process.work(tf.data.experimental.to_variant(as_sequence(client)), *broadcast)

        running: collections.deque[concurrent.futures.Future] = collections.deque()
        for client in clients:
            running.append(self._pool.submit(work, client))
            if len(running) > self._threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def weights(self) -> list[np.ndarray]:
        return [tensor.numpy() for tensor in self._state[: self._process.weights]]

    def state(self) -> list[np.ndarray]:
        return [tensor.numpy() for tensor in self._state]

    def restore(self, state: Sequence[np.ndarray]) -> None:
        self._state = [tf.constant(array) for array in state]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
