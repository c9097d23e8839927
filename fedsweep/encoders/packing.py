"""Packing of small integers into 32-bit words, for any width from 1 to 16 bits.

`tensor_encoding` fills 28 of every 32 bits (its words were once written as varints), `dense` fills all 32. A tensor
of n values of b bits takes ceil(n * b / 28) or ceil(n * b / 32) words.
"""

from __future__ import annotations

import collections
import math

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

WORD_BITS = {"tensor_encoding": 28, "dense": 32}


def pack(values: tf.Tensor, bits: int, word_bits: int) -> tf.Tensor:
    """Concatenates the low `bits` bits of each value, lowest first, into words that carry `word_bits` bits.

    The bit order is tensor_encoding's: for word_bits=28 the words equal those of its `pack_into_int`.

    Args:
      values: int32 [n], each in [0, 2**bits); a larger one would spill into its neighbour.
      bits: 1 to 16.
      word_bits: 28 or 32.

    Returns:
      int32 [ceil(n * bits / word_bits)].
    """
    values = tf.bitcast(values, tf.uint32)
    count = tf.size(values)
    # A group is the shortest run of values that ends where a word ends: its words are sums of shifted columns.
    in_group, words = _group(bits, word_bits)
    columns = tf.unstack(_rows(values, in_group), axis=1)
    mask = tf.constant(2**word_bits - 1, tf.uint32)

    packed = []
    for word in range(words):
        first, last = word * word_bits // bits, ((word + 1) * word_bits - 1) // bits
        parts = [_shifted(columns[i], i * bits - word * word_bits) for i in range(first, last + 1)]
        # The last value of a word may reach beyond it; the rest of its bits open the next word.
        parts[-1] = tf.bitwise.bitwise_and(parts[-1], mask)
        packed.append(_any_of(parts))
    flat = _interleaved(packed)
    return tf.bitcast(flat[: _ceil_div(count * bits, word_bits)], tf.int32)


def unpack(packed: tf.Tensor, bits: int, word_bits: int, count: int | tf.Tensor) -> tf.Tensor:
    """The inverse of `pack`: int32 words [ceil(count * bits / word_bits)] to int32 values [count]."""
    in_group, words = _group(bits, word_bits)
    columns = tf.unstack(_rows(tf.bitcast(packed, tf.uint32), words), axis=1)
    mask = tf.constant(2**bits - 1, tf.uint32)

    values = []
    for i in range(in_group):
        first, last = i * bits // word_bits, ((i + 1) * bits - 1) // word_bits
        parts = [_shifted(columns[word], word * word_bits - i * bits) for word in range(first, last + 1)]
        values.append(tf.bitwise.bitwise_and(_any_of(parts), mask))
    return tf.bitcast(_interleaved(values)[:count], tf.int32)


def _group(bits: int, word_bits: int) -> tuple[int, int]:
    """(values, words) in the shortest run that begins and ends on both borders."""
    length = math.lcm(bits, word_bits)
    return length // bits, length // word_bits


def _rows(values: tf.Tensor, width: int) -> tf.Tensor:
    """[n] as [ceil(n / width), width], filled up with zeros."""
    return tf.reshape(tf.pad(values, [[0, -tf.size(values) % width]]), [-1, width])


def _interleaved(columns: list[tf.Tensor]) -> tf.Tensor:
    """[n] each, as one [n * len(columns)], element by element. (Stacking along axis 1 takes twice as long.)"""
    return tf.reshape(tf.transpose(tf.stack(columns)), [-1])


def _shifted(x: tf.Tensor, left: int) -> tf.Tensor:
    """x shifted to the left, or to the right where `left` is negative."""
    if left == 0:
        return x
    shift = tf.constant(abs(left), tf.uint32)
    return tf.bitwise.left_shift(x, shift) if left > 0 else tf.bitwise.right_shift(x, shift)


def _any_of(parts: list[tf.Tensor]) -> tf.Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = tf.bitwise.bitwise_or(total, part)
    return total


def _ceil_div(a: tf.Tensor, b: int) -> tf.Tensor:
    return (a + b - 1) // b


@te.core.tf_style_encoding_stage
class PackingStage(te.core.EncodingStageInterface):
    """Integers in a float tensor to packed words; lossless.

    Encodes float32 values that are integers in [0, 2**bits) as int32 [ceil(n * bits / word_bits)]: 32 bits a word.
    """

    name = "packing"
    compressible_tensors_keys = ()
    commutes_with_sum = False
    decode_needs_input_shape = True
    ENCODED_VALUES_KEY = "packed_values"

    def __init__(self, bits: int, word_bits: int):
        self._bits, self._word_bits = bits, word_bits

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        values = tf.cast(tf.reshape(x, [-1]), tf.int32)
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, pack(values, self._bits, self._word_bits))])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands  # none
        packed = encoded_tensors[self.ENCODED_VALUES_KEY]
        values = unpack(packed, self._bits, self._word_bits, tf.reduce_prod(shape))
        return tf.reshape(tf.cast(values, tf.float32), shape)
