"""What every runtime offers."""

from __future__ import annotations

import abc
import collections
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from fedsweep.federated.cohort import ClientData
from fedsweep.federated.uplink import NOT_FINITE


@dataclass(frozen=True)
class RoundOutcome:
    """One round: training metrics over all clients, and bits summed over all clients."""

    loss: float  # mean over examples, before each step
    accuracy: float
    finite: bool  # False: the mean update held a NaN or an infinity, and the server refused it
    uplink: dict[str, int]  # bits by kind: update, weight, metrics
    downlink: int  # bits
    width: float | None  # mean bits an element that a schedule chose on the uplink; None without a schedule
    bad_updates: int = 0  # clients whose update held a NaN or an infinity and was dropped or counted as zero

    @property
    def uplink_bits(self) -> int:
        return sum(self.uplink.values())


class NotFiniteError(Exception):
    """A client's update holds a NaN or an infinity, so it was not encoded; says in which tensor.

    `everybody`: so does every other client's of the round, and `on_bad_update` left none.
    """

    everybody = False

    @classmethod
    def of(cls, error: Exception) -> NotFiniteError | None:
        """What a runtime's error says, if it is that."""
        found = re.search(rf"\S+ {NOT_FINITE}", str(error))
        return cls(found.group(0)) if found else None

    @classmethod
    def of_everybody(cls) -> NotFiniteError:
        error = cls(f"every client's update {NOT_FINITE}")
        error.everybody = True
        return error


class Runtime(abc.ABC):
    """Holds a process's state between rounds. A context manager: leaving it ends whatever was started."""

    @abc.abstractmethod
    def round(self, clients: Sequence[ClientData], receivers: int | None = None) -> RoundOutcome:
        """Executes one round.

        Args:
          clients: those that train and send.
          receivers: the number of clients that received the model; None: those.

        Raises:
          NotFiniteError: a client's update cannot be encoded, with `on_bad_update` drop or zero no client's; the
            state is as before the round.
        """

    @abc.abstractmethod
    def weights(self) -> list[np.ndarray]:
        """The server's model weights, in the model's order."""

    @abc.abstractmethod
    def state(self) -> list[np.ndarray]:
        """The whole state between two rounds: what `restore` needs to go on from here, number for number."""

    @abc.abstractmethod
    def restore(self, state: Sequence[np.ndarray]) -> None:
        """Goes on from what `state` gave, in a runtime of the same process."""

    @property
    def client_memory(self) -> int:
        """Bytes that clients keep between rounds (error feedback), all clients seen so far together."""
        return 0

    @abc.abstractmethod
    def close(self) -> None:
        """Ends threads and processes of this runtime; may be called twice."""

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def as_sequence(client: ClientData, memory: Sequence[np.ndarray] = ()) -> tf.data.Dataset:
    """The client as the process's sequence of one element; `memory` is what it kept, if the process asks for it."""
    element = {
        "inputs": client.inputs,
        "labels": client.labels,
        "round": np.int32(client.round),
        "seed": client.seed,
    }
    if memory:
        element["memory"] = tuple(memory)
    return tf.data.Dataset.from_tensors(collections.OrderedDict(sorted(element.items())))  # as `client_work.data_type`


def outcome(metrics: Mapping[str, float], uplink: dict[str, int], downlink: int, bad_updates: int = 0) -> RoundOutcome:
    """A `RoundOutcome` from what the process measures: `loss`, `correct`, `examples` (and `counted`),
    `update_non_finite`, `uplink_width`."""
    examples = metrics["examples"]
    return RoundOutcome(
        loss=_ratio(metrics["loss"], examples),
        accuracy=_ratio(metrics["correct"], metrics.get("counted", examples)),
        finite=int(metrics["update_non_finite"]) == 0,
        uplink=uplink,
        downlink=downlink,
        width=float(metrics["uplink_width"]) or None,
        bad_updates=bad_updates,
    )


def _ratio(part: float, of: float) -> float:
    """0 where clients had nothing to predict: text can be too short."""
    return float(part) / float(of) if of else 0.0


def downlink_bits(message: Mapping[str, int], clients: int, population: int) -> int:
    """What the server sends in a round, by kinds of the message (`wire.DOWNLINK_KINDS`): a difference goes to all
    clients of the data set, anything else to those of the round."""
    return sum(bits * (population if kind == "difference" else clients) for kind, bits in message.items())
