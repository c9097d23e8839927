"""Federated averaging in plain TensorFlow: what a researcher would write without a framework. Nothing is encoded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import keras_cnn
import numpy as np
import tensorflow as tf

sys.path.append(str(Path(__file__).resolve().parents[1]))
from turns import Examples, Turns


def averaging(model: tf.keras.Model, rate: float, batch: int) -> Callable[[Sequence[Examples]], float]:
    """The function that trains one round on clients' examples and gives their mean loss."""
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(reduce_retracing=True)
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign_sub(rate * gradient)
        return loss

    def round_of(clients: Sequence[Examples]) -> float:
        server, total, losses = model.get_weights(), None, []
        for images, labels in clients:
            model.set_weights(server)
            order = np.random.permutation(len(labels))
            for first in range(0, len(labels), batch):
                rows = order[first : first + batch]
                losses.append(float(step(tf.constant(images[rows]), tf.constant(labels[rows]))))
            trained = [len(labels) * weight for weight in model.get_weights()]
            total = trained if total is None else [a + b for a, b in zip(total, trained, strict=True)]
        examples = sum(len(labels) for _, labels in clients)
        model.set_weights([weight / examples for weight in total])
        return sum(losses) / len(losses)

    return round_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.1, help="the clients' learning rate")
    parser.add_argument("--batch", type=int, default=20, help="the clients' batch size")
    turns, arguments = Turns.from_arguments(parser)
    model = keras_cnn.build()
    model.compile(metrics=["sparse_categorical_accuracy"])
    train = averaging(model, arguments.rate, arguments.batch)
    while (number := turns.wait()) is not None:
        if turns.trains:
            train(turns.cohort)
        if turns.evaluates(number):
            images, labels = turns.test
            print(f"round {number}: accuracy {model.evaluate(images, labels, 500, verbose=0)[1]:.4f}", file=sys.stderr)
        turns.done()


if __name__ == "__main__":
    main()
