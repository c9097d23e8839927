"""Encoders as tests use them: by their overrides, one client to the server and back."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fedsweep import encoders
from fedsweep.encoders import randomness, tree
from fedsweep.encoders.codes import CODES


def rule(config, *overrides):
    """The uplink's rule for these overrides; `config` is the fixture. Every tensor is encoded."""
    return encoders.uplink(config("encoder.threshold=0", *overrides))


def channel(config, overrides, shape, traced=True):
    """`channel(...)(x, seed)`: (encoded tensors, the server's view of x), for one client in the first round."""
    spec = tf.TensorSpec(shape, tf.float32)
    gather = tree.gather(*rule(config, *overrides)(spec), spec)

    def send(x, seed):
        with randomness.stream(randomness.fold_in(seed, 0)):
            encode_params, before, after = gather.get_params(gather.initial_state())
        with randomness.stream(randomness.fold_in(seed, 1)):
            encoded, _ = gather.encode(x, encode_params)
        return encoded, gather.decode_after_sum(gather.decode_before_sum(encoded, before), after, 1)

    send = tf.function(send, autograph=False) if traced else send

    def checked(x, seed=(1, 2)):
        encoded, decoded = send(tf.constant(x), tf.constant(seed, tf.int32))
        return encoded, decoded.numpy()

    return checked


def bits_of(encoded):
    """(bits of tensors, bits of lossless codes) on the wire. A code's bytes are made, counted and decoded."""
    fixed = coded = 0
    for key, tensor in encoded.items():
        kind, _, code = key.split("/")[-1].partition(".")
        if kind == "coded_symbols":
            data = CODES[code].encode(tensor.numpy())
            length = encoded[key.replace("coded_symbols", "coded_bits")]
            assert 8 * len(data) == int(length)
            assert np.array_equal(CODES[code].decode(data, len(tensor)), tensor)
            coded += 8 * len(data)
        else:
            fixed += int(tf.size(tensor)) * tensor.dtype.size * 8
    return fixed, coded


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nmse(decoded, x):
    """Squared error over squared norm."""
    return float(np.sum((decoded - x).astype(np.float64) ** 2) / np.sum(x.astype(np.float64) ** 2))
