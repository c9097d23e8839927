"""What every runtime offers."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from fedsweep.federated.cohort import ClientData


@dataclass(frozen=True)
class RoundOutcome:
    """One round: training metrics over all clients, and bits summed over all clients."""

    loss: float  # mean over examples, before each step
    accuracy: float
    finite: bool  # False: the mean update held a NaN or an infinity, and TFF's finalizer refused it
    uplink: dict[str, int]  # bits by kind: update, weight, metrics
    downlink: int  # bits

    @property
    def uplink_bits(self) -> int:
        return sum(self.uplink.values())


class Runtime(abc.ABC):
    """Holds a process's state between rounds. A context manager: leaving it ends whatever was started."""

    @abc.abstractmethod
    def round(self, clients: Sequence[ClientData]) -> RoundOutcome:
        """Executes one round with these clients."""

    @abc.abstractmethod
    def weights(self) -> list[np.ndarray]:
        """The server's model weights, in the model's order."""

    @abc.abstractmethod
    def state(self) -> list[np.ndarray]:
        """The whole state between two rounds: what `restore` needs to go on from here, number for number."""

    @abc.abstractmethod
    def restore(self, state: Sequence[np.ndarray]) -> None:
        """Goes on from what `state` gave, in a runtime of the same process."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends threads and processes of this runtime; may be called twice."""

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def as_sequence(client: ClientData) -> tf.data.Dataset:
    """The client as the process's sequence of one element."""
    return tf.data.Dataset.from_tensors({"images": client.images, "labels": client.labels, "seed": client.seed})


def outcome(metrics: Mapping[str, float], uplink: dict[str, int], downlink: int) -> RoundOutcome:
    """A `RoundOutcome` from the sums that the process reports: `loss`, `correct`, `examples`, `update_non_finite`."""
    examples = float(metrics["examples"])
    return RoundOutcome(
        loss=float(metrics["loss"]) / examples,
        accuracy=float(metrics["correct"]) / examples,
        finite=int(metrics["update_non_finite"]) == 0,
        uplink=uplink,
        downlink=downlink,
    )
