"""Partitions that make clients out of data that has none."""

from __future__ import annotations

import numpy as np


def dirichlet(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Splits examples into clients whose class shares differ: Hsu et al. 2019, arXiv 1909.06335.

    Each class is divided among the clients by proportions drawn from Dirichlet(alpha, ..., alpha): small alpha gives
    clients that hold few classes, large alpha clients that look alike. A client that would stay empty takes one
    example from the client that holds most, so every client can train.

    Args:
      labels: integers [examples].
      clients: number of clients, at most the number of examples.
      alpha: concentration, above 0.
      rng: source of the proportions and of the order of examples.

    Returns:
      One sorted array of example indices per client; together they hold every example once.
    """
    if clients > len(labels):
        raise ValueError(f"{clients} clients cannot share {len(labels)} examples")
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(clients, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for part, chunk in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(chunk)
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return [np.sort(np.array(part)) for part in parts]
