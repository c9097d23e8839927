"""Sparsifiers: some elements are sent, the others are zero. Values and positions are encoded further by children."""

from __future__ import annotations

import collections

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import randomness
from fedsweep.encoders.numeric import largest_positions


def kept(share: float, size: int) -> int:
    """How many of `size` elements are sent: share * size rounded, at least one."""
    return max(1, round(share * size)) if size else 0


def scattered(values: tf.Tensor, positions: tf.Tensor, size: int) -> tf.Tensor:
    """float32 [size]: values [k] at int32 positions [k], zero elsewhere."""
    return tf.scatter_nd(positions[:, tf.newaxis], values, [size])


@te.core.tf_style_encoding_stage
class TopKStage(te.core.EncodingStageInterface):
    """The k elements of largest magnitude: values, float32 [k], and positions, int32 [k] ascending.

    error^2 <= (1 - k / n) norm2(x)^2. Aji and Heafield, EMNLP 2017, arXiv 1704.05021. Every position counts.
    """

    name = "top_k"
    VALUES_KEY = "values"
    POSITIONS_KEY = "positions"
    compressible_tensors_keys = (VALUES_KEY, POSITIONS_KEY)
    commutes_with_sum = False
    decode_needs_input_shape = True

    def __init__(self, share: float):
        self._share = share

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        positions = largest_positions(tf.abs(x), kept(self._share, x.shape[0]))
        return collections.OrderedDict([(self.VALUES_KEY, tf.gather(x, positions)), (self.POSITIONS_KEY, positions)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands  # none; never summed before it is decoded
        size = int(tf.get_static_value(shape)[0])
        return scattered(encoded_tensors[self.VALUES_KEY], encoded_tensors[self.POSITIONS_KEY], size)


@te.core.tf_style_encoding_stage
class RandKStage(te.core.EncodingStageInterface):
    """k elements chosen at random: values, float32 [k], and the seed of the choice, int32 [2], 64 bits.

    With `unbiased` values are scaled by n / k: E error^2 = (n / k - 1) norm2(x)^2. Without, it contracts as error
    feedback wants: E error^2 = (1 - k / n) norm2(x)^2 (Stich et al., NeurIPS 2018, arXiv 1809.07599). Konecny et al.
    2016, arXiv 1610.05492.
    """

    name = "rand_k"
    VALUES_KEY = "values"
    SEED_KEY = "seed"
    compressible_tensors_keys = (VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = True

    def __init__(self, share: float, unbiased: bool):
        self._share, self._unbiased = share, unbiased

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        size, seed = x.shape[0], randomness.next_seed()
        values = tf.gather(x, random_positions(seed, kept(self._share, size), size))
        if self._unbiased and size:
            values *= size / kept(self._share, size)
        return collections.OrderedDict([(self.VALUES_KEY, values), (self.SEED_KEY, seed)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands  # none; never summed before it is decoded
        size = int(tf.get_static_value(shape)[0])
        positions = random_positions(encoded_tensors[self.SEED_KEY], kept(self._share, size), size)
        return scattered(encoded_tensors[self.VALUES_KEY], positions, size)


def random_positions(seed: tf.Tensor, k: int, size: int) -> tf.Tensor:
    """int32 [k] ascending, a uniformly random subset of range(size) that follows from the seed (int32 [2])."""
    return largest_positions(tf.random.stateless_uniform([size], seed), k)


@te.core.tf_style_encoding_stage
class GapsStage(te.core.EncodingStageInterface):
    """Ascending positions, int32 [k], as the places skipped before each: small numbers, for a lossless code."""

    name = "gaps"
    ENCODED_VALUES_KEY = "gaps"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = False

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        gaps = x - tf.concat([[-1], x[:-1]], 0) - 1
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, tf.ensure_shape(gaps, x.shape))])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        return tf.cumsum(encoded_tensors[self.ENCODED_VALUES_KEY] + 1) - 1
