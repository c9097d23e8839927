"""Uniform quantization, plain and after a randomized Hadamard rotation: the encoders of TFF's compression tutorial.

Suresh et al., "Distributed mean estimation with limited communication", ICML 2017, arXiv 1611.00429; rotations also in
Konecny et al. 2016, arXiv 1610.05492.
"""

from __future__ import annotations

import collections

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te
from tensorflow_model_optimization.python.core.internal.tensor_encoding.utils import tf_utils

from fedsweep.encoders import packing, randomness


@te.core.tf_style_encoding_stage
class UniformQuantizationStage(te.core.EncodingStageInterface):
    """Uniform quantization between the tensor's minimum m and maximum M, with noise from the open `randomness.stream`.

    q = floor((x - m) / (M - m) * (2**bits - 1) + u), u uniform on [0, 1): unbiased. Without `stochastic`, q is rounded
    to nearest. All q are 0 when m = M. Encodes x, float32 of any shape, as q, float32 integers of that shape, and
    (m, M), float32 [2]: 64 bits.
    """

    name = "uniform_quantization"
    ENCODED_VALUES_KEY = "quantized_values"
    MIN_MAX_KEY = "min_max"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False  # every client has its own m and M
    decode_needs_input_shape = False

    def __init__(self, bits: int, stochastic: bool):
        self._levels, self._stochastic = float(2**bits - 1), stochastic

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        low, high = tf.reduce_min(x), tf.reduce_max(x)
        # In this order: a quotient is at most 1, so no value lies above the last level and needs another bit.
        x = tf.math.divide_no_nan(x - low, high - low) * self._levels
        if self._stochastic:
            floor = tf.floor(x)
            noise = tf.random.stateless_uniform(tf.shape(x), randomness.next_seed(), dtype=x.dtype)
            x = floor + tf.cast(noise < x - floor, x.dtype)
        else:
            x = tf.round(x)
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, x), (self.MIN_MAX_KEY, tf.stack([low, high]))])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        low, high = tf.unstack(encoded_tensors[self.MIN_MAX_KEY])
        return encoded_tensors[self.ENCODED_VALUES_KEY] / self._levels * (high - low) + low


@te.core.tf_style_encoding_stage
class HadamardStage(te.core.EncodingStageInterface):
    """Randomized Hadamard rotation H D x / sqrt(d2): flattens the range, pads d elements to d2, the next power of two.

    Encodes x, float32 [d], as float32 [1, d2]. The signs D are the server's and the same for all clients of a round, so
    the rotation is undone once, after the sum. Their seed travels to the clients: 64 bits a tensor on the downlink.
    """

    name = "hadamard"
    ENCODED_VALUES_KEY = "hadamard_values"
    SEED_KEY = "seed"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = True
    decode_needs_input_shape = True

    def get_params(self):
        params = collections.OrderedDict([(self.SEED_KEY, randomness.next_seed())])
        return params, params

    def encode(self, x, encode_params):
        size = x.shape[0]
        x *= _signs(size, encode_params[self.SEED_KEY])
        padded = 1 << (size - 1).bit_length()
        rotated = tf_utils.fast_walsh_hadamard_transform(tf.pad(x, [[0, padded - size]])[tf.newaxis])
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, tf.ensure_shape(rotated, [1, padded]))])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del num_summands  # the rotation is linear
        x = tf_utils.fast_walsh_hadamard_transform(encoded_tensors[self.ENCODED_VALUES_KEY])[0]
        size = int(tf.get_static_value(shape)[0])
        return x[:size] * _signs(size, decode_params[self.SEED_KEY])


def _signs(size: int, seed: tf.Tensor) -> tf.Tensor:
    """float32 [size] of -1 and +1. (tensor_encoding's own gives 0, which loses an element, once in 2**23 draws.)"""
    return 1.0 - 2.0 * tf.cast(tf.random.stateless_uniform([size], seed) < 0.5, tf.float32)


def uniform(bits: int, stochastic: bool, packing_name: str) -> te.core.Encoder:
    """32 * ceil(n * bits / w) + 64 bits for a tensor of n elements; w = 28 (tensor_encoding) or 32 (dense)."""
    return _flat(_quantized(bits, stochastic, packing_name)).make()


def hadamard(bits: int, stochastic: bool, packing_name: str) -> te.core.Encoder:
    """As `uniform`, with n padded to the next power of two."""
    rotated = _quantized(bits, stochastic, packing_name).add_parent(HadamardStage(), HadamardStage.ENCODED_VALUES_KEY)
    return _flat(rotated).make()


def _quantized(bits: int, stochastic: bool, packing_name: str) -> te.core.EncoderComposer:
    words = packing.PackingStage(bits, packing.WORD_BITS[packing_name])
    stage = UniformQuantizationStage(bits, stochastic)
    return te.core.EncoderComposer(words).add_parent(stage, stage.ENCODED_VALUES_KEY)


def _flat(composer: te.core.EncoderComposer) -> te.core.EncoderComposer:
    stage = te.stages.FlattenEncodingStage()
    return composer.add_parent(stage, stage.ENCODED_VALUES_KEY)
