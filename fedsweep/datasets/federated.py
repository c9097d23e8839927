"""A federated data set: examples that belong to clients, and held-out sets that are evaluated on."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PADDING = 0  # the token of text that is none: it fills sequences up, and is neither trained on nor counted


@dataclass(frozen=True)
class DataSpec:
    """What a model must fit; known before the examples are read."""

    input_shape: tuple[int, ...]  # of an image: height, width, channels; of text: tokens
    classes: int  # of text: tokens in the vocabulary
    text: bool = False  # inputs are tokens, int32, and labels the tokens that come next, one for each
    uncounted: tuple[int, ...] = ()  # labels that are trained on and that accuracy leaves out (beside padding)


@dataclass(frozen=True)
class Examples:
    """Examples as they are stored.

    Pixels stay in the type of their source (uint8 takes a quarter of float32's memory) and are scaled to [0, 1] when
    they are read.
    """

    inputs: np.ndarray  # images [n, height, width, channels], or tokens int32 [n, tokens]
    labels: np.ndarray  # int32 [n], of text [n, tokens]
    clients: np.ndarray | None = None  # int32 [n]: whose each is, numbered from 0; None: they are nobody's

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, chosen: np.ndarray | slice) -> Examples:
        clients = None if self.clients is None else self.clients[chosen]
        return Examples(self.inputs[chosen], self.labels[chosen], clients)

    def arrays(self) -> list[np.ndarray]:
        return [array for array in (self.inputs, self.labels, self.clients) if array is not None]


class FederatedDataset(abc.ABC):
    """Examples by client, read client by client: only those of a round's clients need to be in memory."""

    def __init__(
        self,
        name: str,
        spec: DataSpec,
        client_ids: Sequence,
        sizes: Sequence[int],
        test: Examples,
        validation: Examples,
        source: str,
        white: float | None = None,
    ):
        """
        Args:
          name: the configuration's.
          spec: what a model must fit.
          client_ids: the source's names of the clients.
          sizes: examples that each client holds; of text in files, pieces of text (sentences, speeches).
          test: what is reported on.
          validation: what is chosen by, so that the test set only reports; may be empty.
          source: where it was read from.
          white: the pixel value that becomes 1.0; None if inputs are taken as they are.
        """
        self.name, self.spec, self.client_ids, self.sizes = name, spec, client_ids, np.asarray(sizes)
        self.test, self.validation, self.source, self.white = test, validation, source, white

    @abc.abstractmethod
    def stored(self, client: int, most: int | None = None) -> Examples:
        """The client's examples, at most the `most` first ones."""

    @abc.abstractmethod
    def digest(self) -> str:
        """SHA-256 over what is in memory: of all examples and who holds them, or (`tff_files`) of less."""

    def client(self, client: int, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A client's inputs, float32 in [0, 1] or tokens int32, and labels, int32; at most the `most` first ones."""
        examples = self.stored(client, most)
        return self.scaled(examples.inputs), examples.labels

    def scaled(self, inputs: np.ndarray) -> np.ndarray:
        """Stored inputs as a model takes them."""
        return inputs if self.white is None else inputs.astype(np.float32) / np.float32(self.white)

    def summary(self) -> str:
        """One line for people: clients, examples a client, held-out examples."""
        return (
            f"{self.name}: {len(self.sizes)} clients with {self.sizes.min()} to {self.sizes.max()} examples (median"
            f" {int(np.median(self.sizes))}), {len(self.test)} test examples"
            + (f", {len(self.validation)} validation examples" if len(self.validation) else "")
        )


class InMemory(FederatedDataset):
    """All examples in arrays, and the rows that each client holds."""

    def __init__(self, examples: Examples, members: Sequence[np.ndarray], **about):
        """`members`: for each client, indices into `examples`; `about`: what every data set has, but the sizes."""
        super().__init__(sizes=[len(rows) for rows in members], **about)
        self.examples, self.members = examples, tuple(members)

    def stored(self, client: int, most: int | None = None) -> Examples:
        return self.examples.rows(self.members[client][:most])

    def digest(self) -> str:
        sha = hashlib.sha256()
        held_out = (*self.test.arrays(), *self.validation.arrays())
        sha.update("\n".join(map(str, self.client_ids)).encode())
        for array in (self.sizes, self.examples.inputs, self.examples.labels, *held_out, *self.members):
            sha.update(np.ascontiguousarray(array))
        return sha.hexdigest()

    def hold_out(self, fraction: float, rng: np.random.Generator) -> InMemory:
        """The same with a share of the clients, drawn from `rng`, held out for validation; one stays at least."""
        kept, held = held_out_clients(len(self.members), fraction, rng)
        if not len(held):
            return self
        rows = np.concatenate([self.members[k] for k in held])
        owners = np.repeat(np.arange(len(held), dtype=np.int32), [len(self.members[k]) for k in held])
        validation = Examples(self.examples.inputs[rows], self.examples.labels[rows], owners)
        return InMemory(
            self.examples,
            [self.members[k] for k in kept],
            name=self.name,
            spec=self.spec,
            client_ids=[self.client_ids[k] for k in kept],
            test=self.test,
            validation=validation,
            source=self.source,
            white=self.white,
        )


def numbered(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the clients' names in ascending order, int32 [n]: whose each example is, as its place among them)"""
    clients, places = np.unique(names, return_inverse=True)
    return clients, places.astype(np.int32)


def members(clients: np.ndarray) -> list[np.ndarray]:
    """The rows of each client, of examples whose clients are numbered from 0."""
    return np.split(np.argsort(clients, kind="stable"), np.cumsum(np.bincount(clients))[:-1])


def held_out_clients(clients: int, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(clients that train, clients that are held out), in ascending order; one trains at least."""
    held = min(round(fraction * clients), clients - 1)
    if not held:
        return np.arange(clients), np.arange(0)
    order = rng.permutation(clients)
    return np.sort(order[held:]), np.sort(order[:held])
