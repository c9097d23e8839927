"""One and a half bits or less: signs, DRIVE and the ternary methods."""

from __future__ import annotations

import collections
import math

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import randomness
from fedsweep.encoders.numeric import normalized, padded_to, round_randomly


@te.core.tf_style_encoding_stage
class SignStage(te.core.EncodingStageInterface):
    """S * sgn(x), symbols 0 and 1, and S, float32 [1]. Zero counts as positive.

    scale="mean": S = norm1(x) / n, the S of least error; error^2 = norm2(x)^2 - norm1(x)^2 / n. Bernstein et al., ICML
    2018, arXiv 1802.04434; Karimireddy et al., ICML 2019, arXiv 1901.09847.
    scale="unbiased": S = norm2(x)^2 / norm1(x). After a random rotation this is DRIVE, unbiased; error^2 / norm2(x)^2
    tends to pi/2 - 1 = 0.571. Vargaftik et al., NeurIPS 2021, arXiv 2105.08339.
    """

    name = "sign"
    ENCODED_VALUES_KEY = "signs"
    SCALE_KEY = "scale"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = False

    def __init__(self, scale: str):
        self._unbiased = scale == "unbiased"

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        unit, largest = normalized(x)
        total = tf.reduce_sum(tf.abs(unit))
        squares = tf.reduce_sum(tf.square(unit))
        scale = tf.math.divide_no_nan(squares, total) if self._unbiased else total / x.shape[0]
        symbols = tf.cast(x >= 0, tf.float32)
        return collections.OrderedDict(
            [(self.ENCODED_VALUES_KEY, symbols), (self.SCALE_KEY, (largest * scale)[tf.newaxis])]
        )

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        return (2.0 * encoded_tensors[self.ENCODED_VALUES_KEY] - 1.0) * encoded_tensors[self.SCALE_KEY][0]


@te.core.tf_style_encoding_stage
class OneBitStage(te.core.EncodingStageInterface):
    """The mean of the elements of each sign: symbols 0 and 1, and both means, float32 [2].

    Seide et al., "1-bit stochastic gradient descent", Interspeech 2014. Least error of all two-level codes split at 0.
    """

    name = "one_bit"
    ENCODED_VALUES_KEY = "signs"
    MEANS_KEY = "means"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = False

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        unit, largest = normalized(x)
        symbols = tf.cast(x >= 0, tf.float32)
        above, count = tf.reduce_sum(tf.maximum(unit, 0.0)), tf.reduce_sum(symbols)
        below = tf.reduce_sum(tf.minimum(unit, 0.0))
        means = [tf.math.divide_no_nan(below, x.shape[0] - count), tf.math.divide_no_nan(above, count)]
        return collections.OrderedDict(
            [(self.ENCODED_VALUES_KEY, symbols), (self.MEANS_KEY, largest * tf.stack(means))]
        )

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        negative, positive = tf.unstack(encoded_tensors[self.MEANS_KEY])
        return negative + encoded_tensors[self.ENCODED_VALUES_KEY] * (positive - negative)


@te.core.tf_style_encoding_stage
class TernaryStage(te.core.EncodingStageInterface):
    """s * t with t in -1, 0, 1; s, float32 [1].

    method="terngrad": symbols t + 1. x is clipped at `factor` standard deviations (0: not clipped), s = max abs(x), P(t
    != 0) = abs(x) / s: unbiased for the clipped tensor. Wen et al., NeurIPS 2017, arXiv 1705.07878.
    method="three_lc": symbols t, as its code takes them. s = `factor` * max abs(x), 1 <= factor < 2, t = round(x / s).
    Lim et al., MLSys 2019, arXiv 1802.07389; made for error feedback.
    """

    name = "ternary"
    ENCODED_VALUES_KEY = "ternary_values"
    SCALE_KEY = "scale"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = False

    def __init__(self, method: str, factor: float):
        self._method, self._factor = method, factor
        self._zero = 1.0 if method == "terngrad" else 0.0  # the symbol of t = 0

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        unit, largest = normalized(x)  # within -1 to 1
        if self._method == "terngrad":
            limit = self._factor * tf.math.reduce_std(unit) if self._factor else 1.0
            # A constant tensor has no deviation: nothing to clip then.
            limit = tf.where(limit > 0, tf.minimum(limit, tf.reduce_max(tf.abs(unit))), 1.0)
            unit = tf.clip_by_value(unit, -limit, limit) / limit
            symbols = tf.sign(unit) * round_randomly(tf.abs(unit), randomness.next_seed())
            scale = largest * limit
        else:
            symbols, scale = tf.round(unit / self._factor), largest * self._factor
        return collections.OrderedDict(
            [(self.ENCODED_VALUES_KEY, symbols + self._zero), (self.SCALE_KEY, scale[tf.newaxis])]
        )

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        return (encoded_tensors[self.ENCODED_VALUES_KEY] - self._zero) * encoded_tensors[self.SCALE_KEY][0]


@te.core.tf_style_encoding_stage
class BaseThreeStage(te.core.EncodingStageInterface):
    """Five ternary symbols a byte, 3^5 = 243: float32 integers in 0..2 [n] as uint8 [ceil(n / 5)], 8 bits each.

    Symbol i stands at power i // ceil(n / 5) of byte i % ceil(n / 5): slices instead of strides. Lim et al., arXiv
    1802.07389 ("quartic encoding").
    """

    name = "base_three"
    ENCODED_VALUES_KEY = "bytes"
    compressible_tensors_keys = ()
    commutes_with_sum = False
    decode_needs_input_shape = True

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        count = math.ceil(x.shape[0] / 5)
        digits = tf.cast(padded_to(x, 5 * count), tf.uint8)
        total = digits[:count]
        for power in range(1, 5):
            total += digits[power * count : (power + 1) * count] * 3**power
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, total)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands  # none
        left, digits = encoded_tensors[self.ENCODED_VALUES_KEY], []
        for _ in range(5):
            digits.append(left % 3)
            left //= 3
        size = int(tf.get_static_value(shape)[0])
        return tf.cast(tf.concat(digits, 0)[:size], tf.float32)
