"""Which clients take part in a round, and the seed each of them works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedsweep import schema, seeds
from fedsweep.datasets import FederatedDataset


@dataclass(frozen=True)
class ClientData:
    """What one client brings to a round; the one element of its TFF sequence."""

    inputs: np.ndarray  # float32 [n, height, width, channels], or tokens int32 [n, tokens]
    labels: np.ndarray  # int32 [n], of text [n, tokens]
    seed: np.ndarray  # int32 [2]: shuffles and noise; the client's own
    round: int = 1  # its number: schedules follow it
    client: int = 0  # its place in the data set: what it remembers is found again by this


@dataclass(frozen=True)
class Cohort:
    """The clients of a round, by their place in the data set."""

    chosen: np.ndarray  # the server sends them the model
    sending: np.ndarray  # they send their update back


def draw(config: schema.Config, population: int, round_number: int) -> Cohort:
    """The clients of a round, without replacement.

    Depends on the run's seed and the round alone, so runs that differ in their encoder see the same clients in the
    same order with the same shuffles, and a run can start at any round.
    """
    clients = config.clients_per_round
    rng = seeds.generator(config.seed, seeds.Stream.COHORT, round_number)
    if config.client_sampling == "uniform":
        chosen = rng.choice(population, clients, replace=False)
    elif config.client_sampling == "fixed":  # those of the first round
        chosen = seeds.generator(config.seed, seeds.Stream.COHORT, 1).choice(population, clients, replace=False)
    else:  # everybody, in an order that is drawn once, and again
        order = seeds.generator(config.seed, seeds.Stream.COHORT, 0).permutation(population)
        chosen = order[((round_number - 1) * clients + np.arange(clients)) % population]
    if not config.client_dropout:
        return Cohort(chosen, chosen)
    stays = rng.random(clients) >= config.client_dropout
    if not stays.any():  # a mean needs one
        stays[rng.integers(clients)] = True
    return Cohort(chosen, chosen[stays])


def messages(config: schema.Config, population: Callable[[], int], rounds: int) -> tuple[int, int]:
    """(updates that clients send, models that they receive) in the first rounds; `population` is asked if needed."""
    received = rounds * config.clients_per_round
    if not config.client_dropout:
        return received, received
    clients = population()
    return sum(len(draw(config, clients, number).sending) for number in range(1, rounds + 1)), received


def sample(dataset: FederatedDataset, config: schema.Config, round_number: int) -> tuple[list[ClientData], int]:
    """(what the clients of a round that send bring to it, the number of those that receive the model)"""
    cohort = draw(config, len(dataset.client_ids), round_number)
    clients = [
        ClientData(
            *dataset.client(client, config.client_max_examples),
            _client_seed(config.seed, round_number, client),
            round_number,
            int(client),
        )
        for client in cohort.sending
    ]
    return clients, len(cohort.chosen)


def _client_seed(seed: int, round_number: int, client: int) -> np.ndarray:
    return seeds.words(seed, seeds.Stream.CLIENT, 2, round_number, int(client)).view(np.int32)
