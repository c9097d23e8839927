"""The Pareto front of accuracy against bits."""

from __future__ import annotations

import numpy as np


def on_front(accuracy: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Which points no other point dominates.

    A point is dominated if another is at least as accurate with at most as many bits, and better in one of the two.
    Equal points are on the front together.

    Args:
      accuracy: [n], more is better.
      bits: [n], fewer is better.

    Returns:
      bool [n].
    """
    as_good = (accuracy[None, :] >= accuracy[:, None]) & (bits[None, :] <= bits[:, None])
    better = (accuracy[None, :] > accuracy[:, None]) | (bits[None, :] < bits[:, None])
    return ~(as_good & better).any(axis=1)
