"""What is drawn from a run's seed: each use has a stream of its own, so one can change without the others."""

from __future__ import annotations

import enum

import numpy as np


class Stream(enum.IntEnum):
    SPLIT = 0  # training and test examples
    PARTITION = 1  # which client holds what
    COHORT = 2  # the clients of a round; also numbered by round
    CLIENT = 3  # a client's shuffles and noise; also numbered by round and client
    WEIGHTS = 4  # the model's initial weights
    SEARCH = 5  # what a sweep's sampler draws; also numbered by trial


def generator(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """NumPy's generator for one use of the run's seed."""
    return np.random.default_rng([seed, stream, *numbers])


def words(seed: int, stream: Stream, count: int, *numbers: int) -> np.ndarray:
    """`count` seeds, uint32, for libraries that take numbers."""
    return np.random.SeedSequence([seed, stream, *numbers]).generate_state(count)
