"""A Keras model of one's own: a function of the data's spec that returns it; with an example.

python -m fedsweep model=keras model.maker=fedsweep.models.keras:perceptron
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep import importing, seeds
from fedsweep.datasets import DataSpec
from fedsweep.errors import UserError
from fedsweep.models.functional import Model, WeightSpec


def from_maker(maker: str, spec: DataSpec) -> Model:
    """Calls the function named `module:function`; what goes wrong inside it is its own.

    Raises:
      UserError: there is no such function, or what it returns is no Keras model that fits the data and can be trained.
    """
    named = importing.function("model.maker", maker)
    zeros = tf.int32 if spec.text else tf.float32

    def make():
        keras = named(spec)
        if isinstance(keras, tf.keras.Model) and not keras.built:  # its weights would come with its first call
            keras(tf.zeros([1, *spec.input_shape], zeros))
        return keras

    def refuse(why: str) -> None:
        raise UserError(f"model.maker={maker}: {why}")

    with tf.Graph().as_default():
        keras = named(spec)
        if not isinstance(keras, tf.keras.Model):
            refuse(f"returned {type(keras).__name__}, not a tf.keras.Model")
        inputs = tf.zeros([2, *spec.input_shape], zeros)
        try:
            outputs = keras(inputs)
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            refuse(f"does not take inputs {[None, *spec.input_shape]} ({str(error).strip().splitlines()[0]})")
        wanted = [2, *spec.input_shape, spec.classes] if spec.text else [2, spec.classes]
        if getattr(outputs, "shape", None) != wanted:
            refuse(f"gives {getattr(outputs, 'shape', outputs)} where logits {[None, *wanted[1:]]} belong")
        if not keras.trainable_variables:
            refuse("has no weights to train")
        if fixed := [variable.name for variable in keras.non_trainable_variables]:
            refuse(
                f"{fixed[0]} is not trainable; clients send trained weights alone (group norm instead of batch norm)"
            )
        before = set(tf.compat.v1.get_default_graph().get_operations())
        keras(inputs, training=True)
        forward = [op.type for op in tf.compat.v1.get_default_graph().get_operations() if op not in before]
        if drawn := [kind for kind in forward if "Random" in kind and not kind.startswith("Stateless")]:
            refuse(f"draws while it trains ({drawn[0]}, of dropout, say), which no seed repeats; leave that out")
        if any(variable.dtype != tf.float32 for variable in keras.trainable_variables):
            refuse("has weights that are not float32")

    weights = _created(make)
    functional = tff.learning.models.functional_model_from_keras(
        make,
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        (tf.TensorSpec([None, *spec.input_shape], inputs.dtype), tf.TensorSpec([None], tf.int32)),
    )

    def logits(w, x, noise=None):
        return functional.predict_on_batch((tuple(w), ()), x, training=noise is not None)

    def initial(seed: int) -> list[np.ndarray]:
        # Keras's initializers draw from the global seeds; all else here has generators of its own.
        tf.keras.utils.set_random_seed(int(seeds.words(seed, seeds.Stream.WEIGHTS, 1)[0]))
        return [variable.numpy() for variable in _created(make)]

    names = [variable.name.partition(":")[0] for variable in weights]
    specs = tuple(WeightSpec(name, tuple(variable.shape)) for name, variable in zip(names, weights, strict=True))
    return Model(maker.partition(":")[2], spec, specs, logits, initial)


def _created(make: Callable[[], tf.keras.Model]) -> list[tf.Variable]:
    """A fresh model's weights in the order in which it creates them, the one that TFF's functional model goes by."""
    created: list[tf.Variable] = []

    def record(create, **arguments):
        created.append(create(**arguments))
        return created[-1]

    with tf.variable_creator_scope(record):
        keras = make()
    own = {id(variable) for variable in keras.trainable_variables}
    return [variable for variable in created if id(variable) in own]


def perceptron(spec: DataSpec) -> tf.keras.Model:
    """One hidden layer of 32."""
    return tf.keras.Sequential(
        [
            tf.keras.layers.InputLayer(spec.input_shape),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(32, activation="relu"),
            tf.keras.layers.Dense(spec.classes),
        ]
    )
