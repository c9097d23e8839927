"""Runs federated averaging in this process, through the graphs of a round (`federated.Form`).

What `prepare` (server) says is sent is all that `work` (each client) gets, what `work` returns is all that `accumulate`
gets: the wire meter reads bits off exactly these tensors. (What stays where it is goes along, and is left out by its
name: a client's memory, and the model that clients hold already.)
"""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from fedsweep.federated import PARTS, Form
from fedsweep.federated.cohort import ClientData
from fedsweep.runtime import types, wire
from fedsweep.runtime.base import NotFiniteError, RoundOutcome, Runtime, as_sequence, downlink_bits, outcome
from fedsweep.runtime.graphs import as_function


class Graphs:
    """A form as TensorFlow functions. They hold no state, so runs that differ in their seed alone can share it."""

    def __init__(self, form: Form):
        self.prepare, self.work, self.zero, self.accumulate, self.update = (
            as_function(form.parts[part]) for part in PARTS
        )
        self.uplink = wire.Meter(form.message_type, wire.UPLINK_KINDS)
        self.downlink = wire.Meter(form.broadcast_type, wire.DOWNLINK_KINDS)
        self.sent = len(types.leaves(form.broadcast_type))  # of what `prepare` returns, the first are sent
        self.metric_names = [path[-1] for path in types.paths(form.metrics_type)]
        self.initial_state, self.state_paths = form.state, types.paths(form.state_type)
        remembered = self.uplink.parts(types.leaves(form.message_type), "memory")
        self.memory = [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in remembered]
        self.weights = len(form.state_type.global_model_weights.trainable)  # a state begins with them


class MapReduceRuntime(Runtime):
    """Clients of a round train side by side in `threads` threads, those with most examples first, so that no thread
    ends long after the others; their updates are summed in that order.

    What clients keep between rounds (error feedback) is kept here, by client. `population` is the number of clients in
    the data set; with `verify` the bytes of every message are made and decoded; with `drop` a client whose update holds
    a NaN or an infinity sends nothing and keeps what it remembers.
    """

    def __init__(
        self,
        process: Graphs,
        state: Sequence[tf.Tensor],
        threads: int,
        population: int,
        verify: bool,
        drop: bool = False,
    ):
        self._process, self._state, self._threads = process, list(state), threads
        self._population, self._verify, self._drop = population, verify, drop
        self._memory: dict[int, list[np.ndarray]] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="client")

    def round(self, clients: Sequence[ClientData], receivers: int | None = None) -> RoundOutcome:
        process = self._process
        broadcast, kept = self._prepare()
        if self._verify:
            process.downlink.verify(broadcast)
        clients = sorted(clients, key=lambda client: len(client.labels), reverse=True)
        total, uplink, memory, bad = process.zero(), collections.Counter(), {}, 0
        for client, message in zip(clients, self._work_of(clients, broadcast), strict=True):
            if isinstance(message, NotFiniteError):
                bad += 1
                continue
            bad += sum(int(zeroed) for zeroed in process.uplink.parts(message, "bad"))
            uplink.update(process.uplink.bits(message))
            memory[client.client] = [tensor.numpy() for tensor in process.uplink.parts(message, "memory")]
            total = process.accumulate(*total, *message)
        if bad == len(clients):
            raise NotFiniteError.of_everybody()
        outputs = process.update(*self._state, *kept, *total)
        self._state = outputs[: len(self._state)]
        if process.memory:
            self._memory.update(memory)
        metrics = dict(zip(process.metric_names, outputs[len(self._state) :], strict=True))
        downlink = downlink_bits(process.downlink.bits(broadcast), receivers or len(clients), self._population)
        return outcome(metrics, dict(uplink), downlink, bad)

    def _prepare(self) -> tuple[Sequence[tf.Tensor], Sequence[tf.Tensor]]:
        """(what the server sends, what it keeps for the end of the round)"""
        made = self._process.prepare(*self._state)
        return made[: self._process.sent], made[self._process.sent :]

    def _work_of(
        self, clients: Sequence[ClientData], broadcast: Sequence[tf.Tensor]
    ) -> Iterator[Sequence[tf.Tensor] | NotFiniteError]:
        """What each client sends, in order; with `drop` the reason why it sends nothing.

        One update a thread waits at most: memory does not grow with clients.
        """

        def work(client: ClientData) -> Sequence[tf.Tensor] | NotFiniteError:
            nothing = [np.zeros(spec.shape, spec.dtype.as_numpy_dtype) for spec in self._process.memory]
            data = as_sequence(client, self._memory.get(client.client, nothing))
            try:
                message = self._process.work(tf.data.experimental.to_variant(data), *broadcast)
            except tf.errors.InvalidArgumentError as error:
                refused = NotFiniteError.of(error)
                if refused and self._drop:
                    return refused
                raise refused or error from error
            if self._verify:
                self._process.uplink.verify(message)
            return message

        running: collections.deque[concurrent.futures.Future] = collections.deque()
        for client in clients:
            running.append(self._pool.submit(work, client))
            if len(running) > self._threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def updates(self, clients: Sequence[ClientData]) -> Iterator[list[np.ndarray]]:
        """What each client would send as its update in the next round, tensor by tensor; the state stays as it is."""
        for message in self._work_of(clients, self._prepare()[0]):
            if isinstance(message, NotFiniteError):
                raise message
            yield [tensor.numpy() for tensor in self._process.uplink.parts(message, "update")]

    def weights(self) -> list[np.ndarray]:
        return [tensor.numpy() for tensor in self._state[: self._process.weights]]

    def state(self) -> list[np.ndarray]:
        server = [tensor.numpy() for tensor in self._state]
        if not self._memory:
            return server
        seen = sorted(self._memory)
        remembered = zip(*(self._memory[client] for client in seen), strict=True)
        return [*server, np.array(seen), *(np.stack(tensors) for tensors in remembered)]

    def restore(self, state: Sequence[np.ndarray]) -> None:
        server, remembered = state[: len(self._state)], state[len(self._state) :]
        self._state = [tf.constant(array) for array in server]
        self._memory = {}
        if remembered:
            seen, *tensors = remembered
            self._memory = {int(client): [tensor[k] for tensor in tensors] for k, client in enumerate(seen)}

    @property
    def client_memory(self) -> int:
        return sum(tensor.nbytes for tensors in self._memory.values() for tensor in tensors)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
