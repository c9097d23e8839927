"""Natural compression: powers of two."""

from __future__ import annotations

import collections

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import randomness

_MANTISSA = 23  # bits of a float32's fraction


@te.core.tf_style_encoding_stage
class NaturalStage(te.core.EncodingStageInterface):
    """Stochastic rounding to a power of two: x = 2^e (1 + f) goes to 2^(e + 1) with probability f, else to 2^e.

    Unbiased; E error^2 is at most norm2(x)^2 / 8. Horvath et al. 2019, arXiv 1905.10988. With bits=9 a symbol
    is the sign and the exponent of float32. With bits=8 exponents are counted down from the tensor's largest, which is
    sent (int32 [1]), and what lies more than 126 below it becomes 0.
    """

    name = "natural"
    ENCODED_VALUES_KEY = "symbols"
    TOP_KEY = "largest_exponent"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = False

    def __init__(self, bits: int):
        self._clipped = bits == 8

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        pattern = tf.bitcast(x, tf.int32)
        magnitude = tf.bitwise.bitwise_and(pattern, 2**31 - 1)
        # Adding a random fraction carries into the exponent with probability f: the rounding.
        seed = randomness.next_seed()
        noise = tf.random.stateless_uniform(tf.shape(x), seed, maxval=1 << _MANTISSA, dtype=tf.int32)
        exponent = tf.minimum(tf.bitwise.right_shift(magnitude + noise, _MANTISSA), 254)  # 255 is infinity
        exponent = tf.where(magnitude < 1 << _MANTISSA, 0, exponent)  # zero, and what TensorFlow takes for zero
        negative = tf.cast(x < 0, tf.int32)
        if not self._clipped:
            return collections.OrderedDict([(self.ENCODED_VALUES_KEY, tf.cast(negative * 256 + exponent, tf.float32))])
        top = tf.reduce_max(exponent)
        code = tf.maximum(exponent - (top - 127), 0)  # 127 for the largest
        code = tf.where(exponent > 0, code, 0)
        symbols = tf.cast(negative * 128 + code, tf.float32)
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, symbols), (self.TOP_KEY, top[tf.newaxis])])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        symbols = tf.cast(encoded_tensors[self.ENCODED_VALUES_KEY], tf.int32)
        half = 128 if self._clipped else 256
        negative, code = symbols // half, symbols % half
        if self._clipped:
            code = tf.where(code > 0, code + encoded_tensors[self.TOP_KEY][0] - 127, 0)
        sign = tf.bitwise.left_shift(negative, 31)
        return tf.bitcast(tf.bitwise.bitwise_or(sign, tf.bitwise.left_shift(code, _MANTISSA)), tf.float32)
