"""Codebooks made for the normal distribution, computed once: Lloyd-Max levels and NormalFloat quantiles."""

from __future__ import annotations

import functools

import numpy as np
from scipy.linalg import solve_banded
from scipy.special import ndtr, ndtri


@functools.cache
def lloyd_max(bits: int) -> tuple[float, ...]:
    """The levels, 2**bits, ascending, of the quantizer with least mean squared error on N(0, 1).

    Each level is the mean of its cell, each boundary the midpoint of its neighbours (Max 1960; Lloyd 1982), solved by
    Newton's method from the levels that are optimal for many bits (Panter and Dite 1951: quantiles of N(0, 3)).
    """
    count = 2**bits
    levels = np.sqrt(3) * ndtri((np.arange(count) + 0.5) / count)
    for _ in range(50):
        bounds = (levels[1:] + levels[:-1]) / 2
        edges = np.concatenate([[-np.inf], bounds, [np.inf]])
        density, mass = np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi), np.diff(ndtr(edges))
        means = -np.diff(density) / mass
        # d mean_i / d edge: a cell's mean moves with its edges, an edge moves half as far as each of its levels.
        right = density[1:-1] * (bounds - means[:-1]) / mass[:-1] / 2
        left = density[1:-1] * (means[1:] - bounds) / mass[1:] / 2
        banded = np.zeros([3, count])
        banded[1] = 1 - np.append(right, 0) - np.insert(left, 0, 0)
        banded[0, 1:], banded[2, :-1] = -right, -left
        step = solve_banded((1, 1), banded, means - levels)
        levels = np.sort(levels + step)
        if np.abs(step).max() < 1e-12:
            break
    return tuple(levels.tolist())


def normal_float(bits: int) -> tuple[float, ...]:
    """2**bits levels in [-1, 1], ascending: quantiles of N(0, 1), zero among them, one more above it than below.

    Dettmers et al., "QLoRA", 2023, arXiv 2305.14314: for 4 bits its published NF4. The outermost quantile is
    halfway between those that 2**bits and 2**bits - 1 equal shares leave outside, as there; for other widths the paper
    gives no numbers, so this is the same rule.
    """
    half = 2 ** (bits - 1)
    offset = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    above = ndtri(np.linspace(offset, 0.5, half + 1)[:-1])
    below = -ndtri(np.linspace(offset, 0.5, half)[:-1])
    levels = np.sort(np.concatenate([above, below, [0.0]]))
    return tuple((levels / levels[-1]).tolist())
