"""The tutorial's CNN in Keras, for those who are compared with fedsweep. Nothing of fedsweep is imported here."""

from __future__ import annotations

import tensorflow as tf


def build() -> tf.keras.Model:
    """1,663,370 parameters on 28x28x1 and 10 classes; gives logits."""
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.InputLayer((28, 28, 1)),
            layers.Conv2D(32, 5, padding="same", activation="relu"),
            layers.MaxPool2D(),
            layers.Conv2D(64, 5, padding="same", activation="relu"),
            layers.MaxPool2D(),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(10),
        ]
    )
