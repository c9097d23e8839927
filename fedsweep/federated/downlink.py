"""Downlink: the model as the server sends it, encoded once a round and decoded by every client.

TFF's own encoded broadcast left in 0.38; this is its successor as a `tff.learning.templates.DistributionProcess`.
"""

from __future__ import annotations

import collections

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import EncoderRule, randomness


def build(weights_type: tff.Type, rule: EncoderRule, seed: int) -> tff.learning.templates.DistributionProcess:
    """Distribution of `weights_type` (ModelWeights of float32 tensors) through one simple encoder per tensor.

    All clients of a round receive the same message. `seed` starts the stream of the encoders' randomness.
    """
    specs = [tf.TensorSpec(t.shape, t.dtype) for t in weights_type.trainable]
    encoders = [te.encoders.as_simple_encoder(rule(spec)[1], spec) for spec in specs]

    @tff.tensorflow.computation
    def initial_state():
        return collections.OrderedDict(
            encoders=tuple(encoder.initial_state() for encoder in encoders), seed=tf.constant([seed, 1], tf.int32)
        )

    state_type = initial_state.type_signature.result

    @tff.tensorflow.computation(state_type, weights_type)
    def encode(state, weights):
        messages, states = [], []
        for k, (encoder, tensor) in enumerate(zip(encoders, weights.trainable, strict=True)):
            with randomness.stream(randomness.fold_in(state["seed"], k)):
                message, encoder_state = encoder.encode(tensor, state["encoders"][k])
            messages.append(message)
            states.append(encoder_state)
        new_seed = randomness.fold_in(state["seed"], len(encoders))
        return collections.OrderedDict(encoders=tuple(states), seed=new_seed), tuple(messages)

    _, message_type = encode.type_signature.result

    @tff.tensorflow.computation(message_type)
    def decode(message):
        received = tuple(encoder.decode(part) for encoder, part in zip(encoders, message, strict=True))
        return tff.learning.models.ModelWeights(received, ())

    @tff.federated_computation
    def initialize():
        return tff.federated_eval(initial_state, tff.SERVER)

    @tff.federated_computation(tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(weights_type, tff.SERVER))
    def next_fn(state, weights):
        new_state, message = tff.federated_map(encode, (state, weights))
        received = tff.federated_map(decode, tff.federated_broadcast(message))
        return tff.templates.MeasuredProcessOutput(new_state, received, tff.federated_value((), tff.SERVER))

    return tff.learning.templates.DistributionProcess(initialize, next_fn)
