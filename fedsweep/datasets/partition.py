"""Partitions that make clients out of data that has none.

Each takes the labels of all examples and gives one sorted array of example indices per client; together they hold every
example once, and no client is empty. What is drawn comes from `rng`.
"""

from __future__ import annotations

import heapq

import numpy as np

from fedsweep import schema, seeds
from fedsweep.errors import UserError


def make(config: schema.Partitioned, labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """The partition of a data set's configuration, drawn from the run's seed.

    `labels`: integers [examples]. Raises UserError if there are too few examples.
    """
    rng = seeds.generator(seed, seeds.Stream.PARTITION)
    pieces = config.clients * (config.shards if config.partition == "shards" else 1)
    if pieces > len(labels):
        what = f"dataset.clients={config.clients}" + (
            f" with {config.shards} shards each" if pieces > config.clients else ""
        )
        raise UserError(f"{what}: {len(labels)} examples are left for them; at least one each is needed")
    if config.partition == "iid":
        return iid(labels, config.clients, rng)
    if config.partition == "shards":
        return shards(labels, config.clients, config.shards, rng)
    if config.partition == "quantity":
        return quantity(labels, config.clients, config.alpha, rng)
    return dirichlet(labels, config.clients, config.alpha, rng)


def iid(labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Equal shares (but for one example) of the shuffled examples. McMahan et al. 2017, arXiv 1602.05629."""
    return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), clients)]


def shards(labels: np.ndarray, clients: int, each: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Examples sorted by label and cut into clients * each shards, of which every client gets `each`.

    With two shards a client holds two classes, mostly. McMahan et al. 2017, arXiv 1602.05629.
    """
    cut = np.array_split(np.argsort(labels, kind="stable"), clients * each)
    dealt = rng.permutation(len(cut)).reshape(clients, each)
    return [np.sort(np.concatenate([cut[k] for k in row])) for row in dealt]


def quantity(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled examples in shares drawn from Dirichlet(alpha, ..., alpha): clients differ in size alone.

    Li et al. 2022, "Federated learning on non-IID data silos", arXiv 2102.02079.
    """
    order = rng.permutation(len(labels))
    cuts = np.round(np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(labels)).astype(int)
    return _filled([part.tolist() for part in np.split(order, cuts)])


def dirichlet(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Clients whose class shares differ: each class is divided by proportions drawn from Dirichlet(alpha, ..., alpha).

    Small alpha gives clients that hold few classes, large alpha clients that look alike. Hsu et al. 2019, arXiv
    1909.06335.
    """
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(clients, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for part, chunk in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(chunk)
    return _filled(parts)


def _filled(parts: list[list[int]]) -> list[np.ndarray]:
    """A client that would stay empty takes one example from the client that holds most, so every client can train."""
    largest = [(-len(part), k) for k, part in enumerate(parts)]
    heapq.heapify(largest)
    for part in parts:
        if not part:
            size, k = heapq.heappop(largest)
            part.append(parts[k].pop())
            heapq.heappush(largest, (size + 1, k))
    return [np.sort(np.array(part)) for part in parts]
