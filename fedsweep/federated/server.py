"""The server: it moves the model along the mean update.

TFF's own finalizer does the same and leaves its condition to AutoGraph, which takes as long as half of all other
tracing; and Mime Lite's momentum would need a second process around it.
"""

from __future__ import annotations

import collections

import tensorflow as tf
import tensorflow_federated as tff


def finalizer(
    optimizer: tff.learning.optimizers.Optimizer, weights_type: tff.Type, momentum: float | None = None
) -> tff.learning.templates.FinalizerProcess:
    """One step of `optimizer`; a mean with a NaN or an infinity changes nothing, and `update_non_finite` (int32, 0 or
    1) says so.

    With Mime Lite's `momentum` the mean holds the mean gradient behind the update, and the weights' `non_trainable`
    hold m, a tensor for each weight tensor: m <- (1 - momentum) * gradient + momentum * m. It travels to clients with
    the model (`downlink`); the gradients are those of all their examples (`client_work`). Karimireddy et al. 2021,
    "Breaking the centralized barrier for cross-device federated learning", arXiv 2008.03606.

    Args:
      optimizer: the server's; the mean stands for the gradient.
      weights_type: ModelWeights.
      momentum: of Mime Lite; None for all else.
    """
    weight_types = tuple(weights_type.trainable)
    mean_type = tff.to_type(weight_types if momentum is None else weight_types * 2)

    @tff.tensorflow.computation
    def initial_state():
        return optimizer.initialize(tuple(tf.TensorSpec(t.shape, t.dtype) for t in weight_types))

    state_type = initial_state.type_signature.result

    @tff.tensorflow.computation(state_type, weights_type, mean_type)
    def step(state, weights, mean):
        update, gradient = tuple(mean[: len(weight_types)]), tuple(mean[len(weight_types) :])
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in mean])
        before = state, tuple(weights.trainable), tuple(weights.non_trainable)
        moved = tuple(
            (1 - momentum) * slope + momentum * m for slope, m in zip(gradient, weights.non_trainable, strict=True)
        )
        after = *optimizer.next(state, tuple(weights.trainable), update), moved
        new_state, *new_weights = tf.nest.map_structure(lambda new, old: tf.where(finite, new, old), after, before)
        measured = collections.OrderedDict(update_non_finite=tf.cast(tf.logical_not(finite), tf.int32))
        return new_state, tff.learning.models.ModelWeights(*new_weights), measured

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
