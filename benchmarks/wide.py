"""Models of one hidden layer for `growth.py`, named by their parameters: `model=keras model.maker=wide:p_2000000`."""

from __future__ import annotations


def __getattr__(name: str):
    """`p_N`: the function that makes the model of about N parameters."""
    if not name.startswith("p_"):
        raise AttributeError(name)

    def make(spec):
        import math

        import tensorflow as tf

        inputs, classes = math.prod(spec.input_shape), spec.classes
        hidden = round((int(name.removeprefix("p_")) - classes) / (inputs + classes + 1))
        layers = [tf.keras.layers.Flatten(), tf.keras.layers.Dense(hidden, "relu"), tf.keras.layers.Dense(classes)]
        return tf.keras.Sequential([tf.keras.layers.InputLayer(spec.input_shape), *layers])

    return make
