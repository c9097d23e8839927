"""Vectors that clients could have: each client's own, drawn from known distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedsweep.errors import UserError


@dataclass(frozen=True)
class Vectors:
    """What each client sends: `clients[i][k]` is client i's tensor k, float32."""

    title: str
    clients: list[list[np.ndarray]]

    @property
    def elements(self) -> int:
        """Of one client."""
        return sum(tensor.size for tensor in self.clients[0])


def _gaussian(rng: np.random.Generator, dimension: int) -> np.ndarray:
    """N(0, 1)."""
    return rng.standard_normal(dimension)


def _laplace(rng: np.random.Generator, dimension: int) -> np.ndarray:
    """Laplace(0, 1)."""
    return rng.laplace(size=dimension)


def _lognormal(rng: np.random.Generator, dimension: int) -> np.ndarray:
    """exp(N(0, 1)) with random signs: heavy tails."""
    return rng.lognormal(size=dimension) * rng.choice([-1.0, 1.0], dimension)


def _sparse(rng: np.random.Generator, dimension: int) -> np.ndarray:
    """N(0, 1) at 1 % of the places (one, if there are few), each client's own; zero elsewhere."""
    x = np.zeros(dimension)
    places = rng.choice(dimension, max(1, round(dimension / 100)), replace=False)
    x[places] = rng.standard_normal(len(places))
    return x


_DRAW: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "gaussian": _gaussian,
    "laplace": _laplace,
    "lognormal": _lognormal,
    "sparse": _sparse,
}


def make(kind: str, dimension: int, clients: int, seed: int) -> Vectors:
    """One vector of the kind for each client; client i's depends on (seed, i) alone."""
    try:
        drawn = [[_DRAW[kind](np.random.default_rng([seed, i]), dimension).astype(np.float32)] for i in range(clients)]
    except (MemoryError, ValueError) as error:  # NumPy's word for sizes beyond any memory is ValueError
        raise UserError(f"--dimension {dimension} --clients {clients}: do not fit into memory") from error
    return Vectors(f"{kind} vectors of {dimension:,} elements, {clients} clients", drawn)
