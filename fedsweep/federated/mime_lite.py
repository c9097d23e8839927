"""Mime Lite's server: it moves the model along the mean update and its momentum along the mean gradient.

Karimireddy et al. 2021, "Breaking the centralized barrier for cross-device federated learning", arXiv 2008.03606. The
momentum travels to clients as the model's `non_trainable` weights (`downlink`), the gradients of all their examples
come back behind the updates (`client_work`).
"""

from __future__ import annotations

import tensorflow as tf
import tensorflow_federated as tff


def finalizer(
    momentum: float, optimizer: tff.learning.optimizers.Optimizer, weights_type: tff.Type
) -> tff.learning.templates.FinalizerProcess:
    """TFF's finalizer for the first half of the mean; m <- (1 - momentum) * second half + momentum * m beside it.

    `weights_type`: ModelWeights, whose `non_trainable` hold m, a tensor for each weight tensor.
    """
    apply = tff.learning.templates.build_apply_optimizer_finalizer(optimizer, weights_type)
    tensors = len(weights_type.trainable)
    mean_type = tff.to_type(tuple(weights_type.trainable) * 2)

    @tff.tensorflow.computation(mean_type)
    def split(mean):
        return tuple(mean[:tensors]), tuple(mean[tensors:])

    measured_type = apply.next.type_signature.result.measurements.member

    @tff.tensorflow.computation(weights_type, split.type_signature.result[1], measured_type)
    def with_momentum(weights, gradient, measured):
        moved = tuple(
            tf.where(tf.equal(measured["update_non_finite"], 0), (1 - momentum) * slope + momentum * m, m)
            for slope, m in zip(gradient, weights.non_trainable, strict=True)
        )
        return tff.learning.models.ModelWeights(weights.trainable, moved)

    @tff.federated_computation(
        apply.state_type,
        tff.FederatedType(weights_type, tff.SERVER),
        tff.FederatedType(mean_type, tff.SERVER),
    )
    def next_fn(state, weights, mean):
        update, gradient = tff.federated_map(split, mean)
        output = apply.next(state, weights, update)
        result = tff.federated_map(with_momentum, (output.result, gradient, output.measurements))
        return tff.templates.MeasuredProcessOutput(output.state, result, output.measurements)

    return tff.learning.templates.FinalizerProcess(apply.initialize, next_fn)
