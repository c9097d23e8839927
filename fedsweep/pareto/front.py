"""The Pareto front."""

from __future__ import annotations

import numpy as np


def on_front(costs: np.ndarray) -> np.ndarray:
    """Which points no other point dominates.

    A point is dominated if another is nowhere worse, and better in at least one cost. Equal points are on the front
    together.

    Args:
      costs: [n, k], less is better in each of the k.

    Returns:
      bool [n].
    """
    as_good = (costs[None, :, :] <= costs[:, None, :]).all(axis=2)
    better = (costs[None, :, :] < costs[:, None, :]).any(axis=2)
    return ~(as_good & better).any(axis=1)
