"""The server's step by itself."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.federated.server import Server

SPECS = [tf.TensorSpec([2]), tf.TensorSpec([])]
WEIGHTS = (tf.constant([1.0, 2.0]), tf.constant(3.0))
UPDATE = (tf.constant([0.5, -0.5]), tf.constant(1.0))
GRADIENT = (tf.constant([4.0, 8.0]), tf.constant(-2.0))
MOMENTUM = (tf.constant([1.0, 1.0]), tf.constant(1.0))


def server(momentum):
    return Server(tff.learning.optimizers.build_sgdm(1.0, 0.9), SPECS, momentum)


def step(made, mean, momentum):
    beside = () if momentum is None else MOMENTUM
    return made.step(made.initial_state(), tff.learning.models.ModelWeights(WEIGHTS, beside), mean)


@pytest.mark.parametrize("momentum", [None, 0.25])
def test_a_finite_mean_moves_the_model_against_it(momentum):
    mean = UPDATE if momentum is None else UPDATE + GRADIENT
    _, weights, measured = step(server(momentum), mean, momentum)
    np.testing.assert_allclose(weights.trainable[0], [0.5, 2.5])
    np.testing.assert_allclose(weights.trainable[1], 2.0)
    assert measured["update_non_finite"] == 0
    if momentum:  # 0.75 * gradient + 0.25 * 1
        np.testing.assert_allclose(weights.non_trainable[0], [3.25, 6.25])
        np.testing.assert_allclose(weights.non_trainable[1], -1.25)


def test_the_optimizers_state_goes_on():
    """Momentum 0.9: the second step is 1.9 times the first."""
    made = server(None)
    state, weights, _ = step(made, UPDATE, None)
    _, weights, _ = made.step(state, weights, UPDATE)
    np.testing.assert_allclose(weights.trainable[0], np.array([1.0, 2.0]) - 2.9 * np.array([0.5, -0.5]), rtol=1e-6)


@pytest.mark.parametrize("momentum", [None, 0.25])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_mean_that_is_not_finite_changes_nothing_and_is_measured(momentum, place, value):
    mean = list(UPDATE if momentum is None else UPDATE + GRADIENT)
    mean[place] = tf.fill(mean[place].shape, tf.constant(value, tf.float32))
    made = server(momentum)
    state, weights, measured = step(made, mean, momentum)
    tf.nest.map_structure(np.testing.assert_array_equal, state, tf.nest.map_structure(np.float32, made.initial_state()))
    tf.nest.map_structure(np.testing.assert_array_equal, tuple(weights.trainable), WEIGHTS)
    tf.nest.map_structure(np.testing.assert_array_equal, tuple(weights.non_trainable), MOMENTUM if momentum else ())
    assert measured["update_non_finite"] == 1
