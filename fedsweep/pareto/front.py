"""Fronts, hypervolumes and attainment: points in two costs (or more), in NumPy alone. Less is better in every cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def on_front(costs: np.ndarray) -> np.ndarray:
    """Which points no other point dominates.

    A point is dominated if another is nowhere worse, and better in at least one cost. Equal points are on the front
    together.

    Args:
      costs: [n, k], less is better in each of the k; no NaN.

    Returns:
      bool [n].
    """
    if costs.shape[1] == 2:
        return _on_front_of_two(costs[:, 0], costs[:, 1])
    as_good = (costs[None, :, :] <= costs[:, None, :]).all(axis=2)
    better = (costs[None, :, :] < costs[:, None, :]).any(axis=2)
    return ~(as_good & better).any(axis=1)


def _on_front_of_two(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """In n log n: a point must be the best of its equals in the first cost and better than all that have less of it."""
    levels, place = np.unique(first, return_inverse=True)
    best = np.full(len(levels), np.inf)
    np.minimum.at(best, place, second)
    before = np.concatenate([[np.inf], np.minimum.accumulate(best)[:-1]])
    # Infinitely bad is still not worse than nothing: the first level has no one before it.
    return (second == best[place]) & ((second < before[place]) | (place == 0))


def hypervolume(costs: np.ndarray, reference: Sequence[float]) -> float:
    """The area that the points [n, 2] dominate, up to the reference point; points beyond it add nothing.

    Zitzler and Thiele, "Multiobjective optimization using evolutionary algorithms", PPSN 1998.
    """
    inside = costs[(costs < np.asarray(reference)).all(axis=1)]
    if not len(inside):
        return 0.0
    front = np.unique(inside[on_front(inside)], axis=0)  # ascending in the first cost, so descending in the second
    heights = np.diff(front[:, 1], prepend=reference[1])
    return float(np.sum((reference[0] - front[:, 0]) * -heights))


def attainment(seeds: Sequence[np.ndarray], shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The attainment surfaces of several seeds' points: what a share of the seeds attains.

    Fonseca and Fleming, "On the performance assessment and comparison of stochastic multiobjective optimizers", PPSN
    1996.

    Args:
      seeds: for each seed its points, [n, 2].
      shares: each in (0, 1]; 0.5 is the median surface.

    Returns:
      (first, second): first [m], the first costs at which a surface can step, ascending; second [len(shares), m], the
      least second cost that ceil(share * len(seeds)) seeds reach with at most that first cost; inf where they do not.
    """
    first = np.unique(np.concatenate([points[:, 0] for points in seeds]))
    reached = np.full([len(seeds), len(first)], np.inf)
    for row, points in zip(reached, seeds, strict=True):
        np.minimum.at(row, np.searchsorted(first, points[:, 0]), points[:, 1])
    reached = np.sort(np.minimum.accumulate(reached, axis=1), axis=0)
    # A share of 0.5 of 4 seeds is 2 of them; the tolerance keeps 0.1 * 30 from being 3.0000000000000004, so 4.
    ranks = [int(np.ceil(share * len(seeds) - 1e-9)) - 1 for share in shares]
    return first, reached[ranks]
