"""Federated averaging with FedJAX: `fedjax.algorithms.fed_avg` on its `jit` backend."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import fedjax
import haiku as hk
import jax
import numpy as np
from fedjax.algorithms import fed_avg

sys.path.append(str(Path(__file__).resolve().parents[1]))
from turns import Examples, Turns


def forward(batch: fedjax.BatchExample) -> jax.Array:
    """The tutorial's CNN: 1,663,370 parameters, first drawn as Keras draws them."""
    glorot = hk.initializers.VarianceScaling(1.0, "fan_avg", "uniform")
    network = hk.Sequential(
        [
            hk.Conv2D(32, 5, padding="SAME", w_init=glorot),
            jax.nn.relu,
            hk.MaxPool(2, 2, padding="VALID"),
            hk.Conv2D(64, 5, padding="SAME", w_init=glorot),
            jax.nn.relu,
            hk.MaxPool(2, 2, padding="VALID"),
            hk.Flatten(),
            hk.Linear(512, w_init=glorot),
            jax.nn.relu,
            hk.Linear(10, w_init=glorot),
        ]
    )
    return network(batch["x"])


def dataset(examples: Examples) -> fedjax.ClientDataset:
    images, labels = examples
    return fedjax.ClientDataset({"x": images, "y": labels})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.1, help="the clients' learning rate")
    parser.add_argument("--batch", type=int, default=20, help="the clients' batch size")
    turns, arguments = Turns.from_arguments(parser)
    sample = {"x": np.zeros((1, 28, 28, 1), np.float32), "y": np.zeros(1, np.int32)}
    model = fedjax.create_model_from_haiku(
        hk.transform(forward),
        sample_batch=sample,
        train_loss=lambda batch, outputs: fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], outputs),
        eval_metrics={"accuracy": fedjax.metrics.Accuracy()},
    )
    algorithm = fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.sgd(arguments.rate),
        fedjax.optimizers.sgd(1.0),  # the average as it is
        fedjax.ShuffleRepeatBatchHParams(arguments.batch, num_epochs=1),
    )

    def average(state: fed_avg.ServerState, clients: Sequence[Examples], seed: int) -> fed_avg.ServerState:
        keys = jax.random.split(jax.random.PRNGKey(seed), len(clients))
        cohort = [(str(k).encode(), dataset(client), keys[k]) for k, client in enumerate(clients)]
        return jax.block_until_ready(algorithm.apply(state, cohort)[0])

    initial = state = algorithm.init(model.init(jax.random.PRNGKey(0)))
    # The step is compiled for each size of a last batch, which takes many rounds to see all of: not within the rounds.
    sizes = range(1, arguments.batch + 1)
    average(initial, [(np.zeros((n, 28, 28, 1), np.float32), np.zeros(n, np.int32)) for n in sizes], 0)
    while (number := turns.wait()) is not None:
        state = average(state, turns.cohort, number)
        if turns.evaluates(number):
            metrics = fedjax.evaluate_model(model, state.params, dataset(turns.test).padded_batch(batch_size=500))
            print(f"round {number}: accuracy {float(metrics['accuracy']):.4f}", file=sys.stderr)
        turns.done()


if __name__ == "__main__":
    main()
