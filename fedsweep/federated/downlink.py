"""Downlink: the model as the server sends it, encoded once a round and decoded by every client.

TFF's own encoded broadcast left in 0.38; `Downlink.process` is its successor for programs that compose with TFF.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.encoders import EncoderRule, randomness
from fedsweep.encoders.sparse import RandKStage
from fedsweep.encoders.tree import IDENTITY, gather
from fedsweep.federated import coded

# The parts of a tensor's message: what the encoder made of it, and the parameters that decoding needs.
_ENCODED, _DECODING = "encoded", "decoding"


class Downlink:
    """The model (ModelWeights of float32 tensors) through one encoder per tensor; TensorFlow functions.

    All clients of a round receive the same message, named `model`.

    With `difference` the message, of that name, is the encoded difference between the model and what clients hold, so
    what one message loses is part of the next difference: the server's error feedback. At first clients hold the
    initial model, which follows from the run's seed. Clients must hear every message to hold the same, so it goes to
    all clients of the data set, not to those of the round alone. Amiri et al. 2020, arXiv 2006.10672. What they hold
    is handed to the graph as `held`; it is not sent.
    """

    def __init__(
        self,
        initial: Sequence[np.ndarray],
        rule: EncoderRule,
        seed: int,
        difference: bool = False,
        thinned: bool = False,
        momentum: bool = False,
    ):
        """
        Args:
          initial: the model's initial weights, float32.
          rule: chooses an encoder per tensor.
          seed: starts the stream of the encoders' randomness.
          difference: see above.
          thinned: the encoders leave elements out (federated dropout); the result's `non_trainable` then holds a mask
            for every tensor, 1 where the client received the weight.
          momentum: the weights' `non_trainable` hold the server's momentum, which goes along as float32.
        """
        self._initial, self._seed = initial, seed
        self._difference, self._thinned, self._momentum = difference, thinned, momentum
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in initial]
        chosen = [(*rule(spec), spec) for spec in specs]
        self._labels = [label for label, _, _ in chosen]
        self._encoders = [gather(*choice) for choice in chosen]

    def initial_state(self) -> collections.OrderedDict:
        state = collections.OrderedDict(
            encoders=tuple(encoder.initial_state() for encoder in self._encoders),
            seed=tf.constant([self._seed, 1], tf.int32),
        )
        if self._difference:
            state["held"] = tuple(map(tf.constant, self._initial))
        return state

    def encode(self, state, weights):
        """At the server: (new state, message, int64: the bits of its lossless codes)."""
        messages, states = [], []
        for k, (encoder, tensor) in enumerate(zip(self._encoders, weights.trainable, strict=True)):
            sent = tensor - state["held"][k] if self._difference else tensor
            message, encoder_state = _encoded(encoder, sent, state["encoders"][k], randomness.fold_in(state["seed"], k))
            messages.append(message)
            states.append(encoder_state)
        new_seed = randomness.fold_in(state["seed"], len(self._encoders))
        new_state = collections.OrderedDict(encoders=tuple(states), seed=new_seed)
        sent = collections.OrderedDict([("difference" if self._difference else "model", tuple(messages))])
        if self._difference:
            pairs = zip(state["held"], self._restored(messages), strict=True)
            new_state["held"] = tuple(tf.add(*pair) for pair in pairs)
            sent["held"] = tuple(state["held"])
        if self._momentum:
            sent["momentum"] = tuple(weights.non_trainable)
        return new_state, sent, coded.bits([message[_ENCODED] for message in messages])

    def decode(self, message) -> tff.learning.models.ModelWeights:
        """At a client: the weights that it received, and beside them, as `non_trainable`, momentum or masks."""
        if self._difference:
            received = tuple(map(tf.add, message["held"], self._restored(message["difference"])))
        else:
            received = self._restored(message["model"])
        beside = tuple(message["momentum"]) if self._momentum else ()
        if self._thinned:
            beside = tuple(
                tf.constant(1.0) if label == IDENTITY else _decoded(encoder, _ones(part))
                for label, encoder, part in zip(self._labels, self._encoders, message["model"], strict=True)
            )
        return tff.learning.models.ModelWeights(received, beside)

    def _restored(self, messages) -> tuple[tf.Tensor, ...]:
        return tuple(_decoded(encoder, part) for encoder, part in zip(self._encoders, messages, strict=True))

    def process(self, weights_type: tff.Type) -> tff.learning.templates.DistributionProcess:
        """As TFF composes it; its measurements are `downlink_coded_bits`, the bits of the message's lossless codes."""
        initial_state = tff.tensorflow.computation(self.initial_state)
        state_type = initial_state.type_signature.result
        encode = tff.tensorflow.computation(self.encode, (state_type, weights_type))
        decode = tff.tensorflow.computation(self.decode, encode.type_signature.result[1])

        @tff.federated_computation
        def initialize():
            return tff.federated_eval(initial_state, tff.SERVER)

        @tff.federated_computation(
            tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(weights_type, tff.SERVER)
        )
        def next_fn(state, weights):
            new_state, message, coded_bits = tff.federated_map(encode, (state, weights))
            received = tff.federated_map(decode, tff.federated_broadcast(message))
            measurements = tff.federated_zip(collections.OrderedDict(downlink_coded_bits=coded_bits))
            return tff.templates.MeasuredProcessOutput(new_state, received, measurements)

        return tff.learning.templates.DistributionProcess(initialize, next_fn)


def _encoded(encoder, tensor: tf.Tensor, state, seed: tf.Tensor):
    """(what is sent of a tensor, the encoder's new state)"""
    with randomness.stream(randomness.fold_in(seed, 0)):
        encode_parameters, *parameters = encoder.get_params(state)
    with randomness.stream(randomness.fold_in(seed, 1)):
        encoded, state_updates = encoder.encode(tensor, encode_parameters)
    message = collections.OrderedDict([(_ENCODED, encoded), (_DECODING, tuple(parameters))])
    return message, encoder.update_state(state, state_updates)


def _decoded(encoder, message) -> tf.Tensor:
    before_sum, after_sum = message[_DECODING]
    return encoder.decode_after_sum(encoder.decode_before_sum(message[_ENCODED], before_sum), after_sum, 1)


def _ones(message):
    """The message with a 1 for every weight that is in it: decoded, it is the mask."""
    encoded = collections.OrderedDict(
        (key, tf.ones_like(tensor) if key.split("/")[-1] == RandKStage.VALUES_KEY else tensor)
        for key, tensor in message[_ENCODED].items()
    )
    return collections.OrderedDict([(_ENCODED, encoded), (_DECODING, message[_DECODING])])
