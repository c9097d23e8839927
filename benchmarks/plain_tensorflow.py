"""Federated averaging in plain TensorFlow: what a researcher would write without a framework. Nothing is encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras_cnn
import numpy as np
import tensorflow as tf


def start(rate: float, batch: int) -> Callable[[Sequence[tuple[np.ndarray, np.ndarray]]], float]:
    """The tutorial's CNN; the function trains one round on clients' (images, labels) and gives their mean loss."""
    model = keras_cnn.build()
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(reduce_retracing=True)
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign_sub(rate * gradient)
        return loss

    def round_of(clients: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
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
