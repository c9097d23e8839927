"""Which clients take part in a round, and the seed each of them works with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsweep.datasets import FederatedDataset

_SAMPLING, _CLIENT = 2, 3  # streams of the run's seed; 0 and 1 split and partition the data


@dataclass(frozen=True)
class ClientData:
    """What one client brings to a round; the one element of its TFF sequence."""

    images: np.ndarray  # float32 [n, height, width, channels]
    labels: np.ndarray  # int32 [n]
    seed: np.ndarray  # int32 [2]: shuffles and rounding noise; the client's own, it is never sent


def sample(dataset: FederatedDataset, clients: int, seed: int, round_number: int) -> list[ClientData]:
    """`clients` clients, without replacement.

    Depends on the run's seed and the round alone, so runs that differ in their encoder see the same clients in the
    same order with the same shuffles, and a run can start at any round.
    """
    rng = np.random.default_rng([seed, _SAMPLING, round_number])
    chosen = rng.choice(len(dataset.members), clients, replace=False)
    return [ClientData(*dataset.client(index), _client_seed(seed, round_number, index)) for index in chosen]


def _client_seed(seed: int, round_number: int, client: int) -> np.ndarray:
    words = np.random.SeedSequence([seed, _CLIENT, round_number, int(client)]).generate_state(2)
    return words.view(np.int32)
