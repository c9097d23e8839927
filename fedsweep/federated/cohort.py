"""Which clients take part in a round, and the seed each of them works with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsweep import seeds
from fedsweep.datasets import FederatedDataset


@dataclass(frozen=True)
class ClientData:
    """What one client brings to a round; the one element of its TFF sequence."""

    images: np.ndarray  # float32 [n, height, width, channels]
    labels: np.ndarray  # int32 [n]
    seed: np.ndarray  # int32 [2]: shuffles and rounding noise; the client's own
    client: int = 0  # its place in the data set: what it remembers is found again by this


def sample(dataset: FederatedDataset, clients: int, seed: int, round_number: int) -> list[ClientData]:
    """`clients` clients, without replacement.

    Depends on the run's seed and the round alone, so runs that differ in their encoder see the same clients in the
    same order with the same shuffles, and a run can start at any round.
    """
    rng = seeds.generator(seed, seeds.Stream.COHORT, round_number)
    chosen = rng.choice(len(dataset.members), clients, replace=False)
    return [ClientData(*dataset.client(index), _client_seed(seed, round_number, index), int(index)) for index in chosen]


def _client_seed(seed: int, round_number: int, client: int) -> np.ndarray:
    return seeds.words(seed, seeds.Stream.CLIENT, 2, round_number, int(client)).view(np.int32)
