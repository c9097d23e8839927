"""Downlink: the model as the server sends it, encoded once a round and decoded by every client.

TFF's own encoded broadcast left in 0.38; this is its successor as a `tff.learning.templates.DistributionProcess`.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import EncoderRule, randomness
from fedsweep.encoders.sparse import RandKStage
from fedsweep.federated import coded


def build(
    initial: Sequence[np.ndarray],
    rule: EncoderRule,
    seed: int,
    difference: bool = False,
    thinned: bool = False,
    momentum: bool = False,
) -> tff.learning.templates.DistributionProcess:
    """Distribution of the model (ModelWeights of float32 tensors like `initial`) through one simple encoder per tensor.

    All clients of a round receive the same message, named `model`.

    With `difference` the message, of that name, is the encoded difference between the model and what clients hold, so
    what one message loses is part of the next difference: the server's error feedback. At first clients hold the
    initial model, which follows from the run's seed. Clients must hear every message to hold the same, so it goes to
    all clients of the data set, not to those of the round alone. Amiri et al. 2020, arXiv 2006.10672. What they hold
    is handed to the graph as `held`; it is not sent.

    Args:
      initial: the model's initial weights, float32.
      rule: chooses an encoder per tensor.
      seed: starts the stream of the encoders' randomness.
      difference: see above.
      thinned: the encoders leave elements out (federated dropout); the result's `non_trainable` then holds a mask for
        every tensor, 1 where the client received the weight.
      momentum: the weights' `non_trainable` hold the server's momentum, which goes along as float32.

    Returns:
      The process; its measurements are `downlink_coded_bits`, the bits of the message's lossless codes, int64.
    """
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in initial]
    tensor_types = tuple(tff.TensorType(tensor.dtype, tensor.shape) for tensor in initial)
    weights_type = tff.to_type(tff.learning.models.ModelWeights(tensor_types, tensor_types if momentum else ()))
    labels, cores = zip(*map(rule, specs), strict=True)
    encoders = [te.encoders.as_simple_encoder(core, spec) for core, spec in zip(cores, specs, strict=True)]

    def restored(message):
        return tuple(encoder.decode(part) for encoder, part in zip(encoders, message, strict=True))

    @tff.tensorflow.computation
    def initial_state():
        state = collections.OrderedDict(
            encoders=tuple(encoder.initial_state() for encoder in encoders), seed=tf.constant([seed, 1], tf.int32)
        )
        if difference:
            state["held"] = tuple(map(tf.constant, initial))
        return state

    state_type = initial_state.type_signature.result

    @tff.tensorflow.computation(state_type, weights_type)
    def encode(state, weights):
        messages, states = [], []
        for k, (encoder, tensor) in enumerate(zip(encoders, weights.trainable, strict=True)):
            with randomness.stream(randomness.fold_in(state["seed"], k)):
                sent = tensor - state["held"][k] if difference else tensor
                message, encoder_state = encoder.encode(sent, state["encoders"][k])
            messages.append(message)
            states.append(encoder_state)
        new_seed = randomness.fold_in(state["seed"], len(encoders))
        new_state = collections.OrderedDict(encoders=tuple(states), seed=new_seed)
        sent = collections.OrderedDict([("difference" if difference else "model", tuple(messages))])
        if difference:
            new_state["held"] = tuple(tf.add(*pair) for pair in zip(state["held"], restored(messages), strict=True))
            sent["held"] = tuple(state["held"])
        if momentum:
            sent["momentum"] = tuple(weights.non_trainable)
        return new_state, sent, coded.bits(messages)

    _, message_type, _ = encode.type_signature.result

    @tff.tensorflow.computation(message_type)
    def decode(message):
        if difference:
            received = tuple(map(tf.add, message["held"], restored(message["difference"])))
        else:
            received = restored(message["model"])
        beside = tuple(message["momentum"]) if momentum else ()
        if thinned:
            beside = tuple(
                tf.constant(1.0) if label == "identity" else encoder.decode(_ones(part))
                for label, encoder, part in zip(labels, encoders, message["model"], strict=True)
            )
        return tff.learning.models.ModelWeights(received, beside)

    @tff.federated_computation
    def initialize():
        return tff.federated_eval(initial_state, tff.SERVER)

    @tff.federated_computation(tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(weights_type, tff.SERVER))
    def next_fn(state, weights):
        new_state, message, coded_bits = tff.federated_map(encode, (state, weights))
        received = tff.federated_map(decode, tff.federated_broadcast(message))
        measurements = tff.federated_zip(collections.OrderedDict(downlink_coded_bits=coded_bits))
        return tff.templates.MeasuredProcessOutput(new_state, received, measurements)

    return tff.learning.templates.DistributionProcess(initialize, next_fn)


def _ones(message):
    """The message with a 1 for every weight that is in it: decoded, it is the mask."""
    return collections.OrderedDict(
        (key, tf.ones_like(tensor) if key.split("/")[-1] == RandKStage.VALUES_KEY else tensor)
        for key, tensor in message.items()
    )
