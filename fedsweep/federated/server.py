"""The server: it moves the model along the mean update.

TFF's own finalizer does that, too; it leaves its condition to AutoGraph, which takes its time, and Mime Lite's momentum
would need a second process around it.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_federated as tff


class Server:
    """One step of an optimizer, for which the mean update stands for the gradient; TensorFlow functions.

    A mean with a NaN or an infinity changes nothing, and `update_non_finite` (int32, 0 or 1) says so.

    With Mime Lite's `momentum` the mean holds the mean gradient behind the update, and the weights' `non_trainable`
    hold m, a tensor for each weight tensor: m <- (1 - momentum) * gradient + momentum * m. It travels to clients with
    the model (`downlink`); the gradients are those of all their examples (`client_work`). Karimireddy et al. 2021,
    "Breaking the centralized barrier for cross-device federated learning", arXiv 2008.03606.
    """

    def __init__(
        self,
        optimizer: tff.learning.optimizers.Optimizer,
        specs: Sequence[tf.TensorSpec],
        momentum: float | None = None,
    ):
        """`specs`: of the weights; `momentum`: of Mime Lite, None for all else."""
        self._optimizer, self._specs, self._momentum = optimizer, tuple(specs), momentum

    def initial_state(self):
        return self._optimizer.initialize(self._specs)

    def step(self, state, weights, mean):
        """(new state, ModelWeights, OrderedDict of `update_non_finite`)"""
        count = len(self._specs)
        update, gradient = tuple(mean[:count]), tuple(mean[count:])
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in mean])
        before = state, tuple(weights.trainable), tuple(weights.non_trainable)
        moved = tuple(
            (1 - self._momentum) * slope + self._momentum * m
            for slope, m in zip(gradient, weights.non_trainable, strict=True)
        )
        after = *self._optimizer.next(state, tuple(weights.trainable), update), moved
        new_state, *new_weights = tf.nest.map_structure(lambda new, old: tf.where(finite, new, old), after, before)
        measured = collections.OrderedDict(update_non_finite=tf.cast(tf.logical_not(finite), tf.int32))
        return new_state, tff.learning.models.ModelWeights(*new_weights), measured

    def process(self, weights_type: tff.Type) -> tff.learning.templates.FinalizerProcess:
        """As TFF composes it."""
        initial_state = tff.tensorflow.computation(self.initial_state)
        state_type = initial_state.type_signature.result
        weight_types = tuple(weights_type.trainable)
        mean_type = tff.to_type(weight_types if self._momentum is None else weight_types * 2)
        step = tff.tensorflow.computation(self.step, (state_type, weights_type, mean_type))

        @tff.federated_computation
        def initialize():
            return tff.federated_eval(initial_state, tff.SERVER)

        @tff.federated_computation(
            tff.FederatedType(state_type, tff.SERVER),
            tff.FederatedType(weights_type, tff.SERVER),
            tff.FederatedType(mean_type, tff.SERVER),
        )
        def next_fn(state, weights, mean):
            return tff.templates.MeasuredProcessOutput(*tff.federated_map(step, (state, weights, mean)))

        return tff.learning.templates.FinalizerProcess(initialize, next_fn)
