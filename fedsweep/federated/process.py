"""The learning process of a configuration, composed from TFF's templates."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_federated as tff

from fedsweep import encoders, schema
from fedsweep.federated import client_work, downlink, optimizers, uplink
from fedsweep.models import Model


def build(config: schema.Config, model: Model) -> tff.learning.templates.LearningProcess:
    """Federated averaging of `model` as `config` has it: encoders in both directions, optimizers, seeds.

    The process is a plain `tff.learning.templates.LearningProcess`: both runtimes of `fedsweep.runtime` execute it, and
    so does TFF itself.
    """
    start = model.initial_weights(config.seed)

    @tff.tensorflow.computation
    def initial_weights():
        return tff.learning.models.ModelWeights(tuple(tf.constant(tensor) for tensor in start), ())

    weights_type = initial_weights.type_signature.result
    work = client_work.build(
        model, weights_type, optimizers.client(config.optimizer), config.client_epochs, config.client_batch_size
    )
    sent_by_client = work.next.type_signature.result.result.member
    aggregation = uplink.EncodedMeanFactory(encoders.build(config.encoder), config.seed)
    return tff.learning.templates.compose_learning_process(
        initial_weights,
        downlink.build(weights_type, encoders.build(config.downlink_encoder), config.seed),
        work,
        aggregation.create(sent_by_client.update, sent_by_client.update_weight),
        tff.learning.templates.build_apply_optimizer_finalizer(optimizers.server(config.optimizer), weights_type),
    )
