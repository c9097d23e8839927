"""Clients, the wire and the server for one encoder and tensors of one shape."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from fedsweep.encoders import EncoderRule, randomness, tree
from fedsweep.federated import coded
from fedsweep.federated.uplink import COMBINE

Seeds = tuple[tf.Tensor, list[tf.Tensor]]  # the server's, and each client's: int32 [2]


@dataclass(frozen=True)
class Sent:
    """One round."""

    mean: np.ndarray  # the server's
    bits: int  # of all clients
    encode: list[float]  # seconds, by client
    decode: list[float]


class Channel:
    """An encoder for tensors of one shape, as `federated.uplink` uses it: four TensorFlow functions."""

    def __init__(self, rule: EncoderRule, spec: tf.TensorSpec):
        gather = tree.gather(*rule(spec), spec)
        self._gather, self._state = gather, gather.initial_state()
        seed_spec = tf.TensorSpec([2], tf.int32)

        def parameters(state, seed):
            with randomness.stream(seed):
                return gather.get_params(state)

        def encode(x, params, seed):
            with randomness.stream(seed):  # a client of weight 1
                return gather.encode(x, params)

        def decode(message, params):
            return gather.decode_before_sum(message, params)

        def finish(total, params, clients):
            return gather.decode_after_sum(total, params, clients)

        self._parameters = _traced(parameters, self._state, seed_spec)
        encode_params, before, after = self._parameters.structured_outputs
        self._encode = _traced(encode, spec, encode_params, seed_spec)
        message, _ = self._encode.structured_outputs
        self._decode = _traced(decode, message, before)
        part = self._decode.structured_outputs
        self._finish = _traced(finish, part, after, tf.TensorSpec([1], tf.int32))

    def begin(self, tensors: list[tf.Tensor], seeds: Seeds) -> None:
        """A first round, which is not measured: TensorFlow sets up its kernels, and an encoder that adapts to what
        clients tell (rate_distortion's vote, say) starts from what these clients told."""
        state = self._state = self._gather.initial_state()  # of these vectors, not of those before
        modes = self._gather.state_update_aggregation_modes
        parts = tensors if modes else tensors[:1]
        self.round(parts, (seeds[0], seeds[1][: len(parts)]))
        if modes:
            params, *_ = self._parameters(state, seeds[0])
            told = [self._encode(x, params, seed)[1] for x, seed in zip(tensors, seeds[1], strict=True)]
            combined = tuple(
                functools.reduce(COMBINE[mode][0], values)
                for mode, values in zip(modes, zip(*told, strict=True), strict=True)
            )
            self._state = self._gather.update_state(state, combined)

    def round(self, tensors: list[tf.Tensor], seeds: Seeds) -> Sent:
        """Each client sends its tensor."""
        params, before, after = self._parameters(self._state, seeds[0])
        total, bits, encode, decode = None, 0, [], []
        for x, seed in zip(tensors, seeds[1], strict=True):
            started = time.perf_counter()
            message, told = self._encode(x, params, seed)
            encoded = time.perf_counter()
            part = self._decode(message, before)
            ended = time.perf_counter()
            encode.append(encoded - started)
            decode.append(ended - encoded)
            bits += _bits_of(message, before, told)
            total = part if total is None else tf.nest.map_structure(tf.add, total, part)
        started = time.perf_counter()
        result = self._finish(total, after, tf.constant([len(tensors)], tf.int32))
        share = (time.perf_counter() - started) / len(tensors)
        mean = (result / len(tensors)).numpy()
        return Sent(mean, bits, encode, [seconds + share for seconds in decode])


def _bits_of(message: coded.EncodedTensor, *more) -> int:
    """As `federated.plan` counts, and the lossless codes' bits. `more`: parameters that clients return because decoding
    needs them before the sum, and what clients tell for the encoder's state."""
    sent = [tensor for key, tensor in message.items() if not coded.is_symbols(key)]
    return int(coded.bits([message])) + coded.plain_bits((sent, more))


def _traced(function: Callable, *arguments) -> tf.types.experimental.ConcreteFunction:
    """The function for arguments that are like these, at any size that is not known when it is traced.

    AutoGraph has nothing to convert in stages (TFF traces them without it too), and takes seconds an encoder.
    """
    specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), arguments)
    return tf.function(function, autograph=False).get_concrete_function(*specs)
