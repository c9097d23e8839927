"""Quantization to equally spaced levels: the tutorial's uniform quantization, and QSGD.

A quantizer is two functions of a number of levels. One stage serves a width that is fixed, another a width that follows
a schedule (`fedsweep.encoders.schedule`).
"""

from __future__ import annotations

import collections
from typing import Protocol

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import randomness
from fedsweep.encoders.numeric import in_blocks, norm, round_randomly
from fedsweep.encoders.schedule import Schedule

Number = float | tf.Tensor


class Quantizer(Protocol):
    """Symbols are float32 integers in [0, levels], of x's shape [n]; `scale` is float32 [m]."""

    least: int  # levels

    def quantize(self, x: tf.Tensor, levels: Number) -> tuple[tf.Tensor, tf.Tensor]:
        """(symbols, scale); `levels` is a whole number, the steps between the lowest and the highest symbol."""

    def restore(self, symbols: tf.Tensor, scale: tf.Tensor, levels: Number) -> tf.Tensor: ...


class Uniform:
    """q = floor((x - m) / (M - m) * levels + u), u uniform on [0, 1), m and M the tensor's minimum and maximum.

    Unbiased, but for the noise's own steps (`round_randomly`). Without `stochastic` q is rounded to nearest. All q are
    0 when m = M. Scale: (m, M), 64 bits. Suresh et al., "Distributed mean estimation with limited communication", ICML
    2017, arXiv 1611.00429.
    """

    least = 1

    def __init__(self, stochastic: bool):
        self._stochastic = stochastic

    def quantize(self, x, levels):
        low, high = tf.reduce_min(x), tf.reduce_max(x)
        step = self._step(low, high, levels)
        x = tf.math.divide_no_nan(x - low, step)
        symbols = round_randomly(x, randomness.next_seed(), levels) if self._stochastic else tf.round(x)
        return symbols, tf.stack([low, high])

    def restore(self, symbols, scale, levels):
        low, high = tf.unstack(scale)
        return symbols * self._step(low, high, levels) + low

    def _step(self, low: tf.Tensor, high: tf.Tensor, levels: Number) -> tf.Tensor:
        """From one symbol to the next; so large that no value lies above the last symbol and needs another bit."""
        step = (high - low) / levels
        return tf.where(tf.math.divide_no_nan(high - low, step) > levels, tf.math.nextafter(step, 2 * step), step)


class Qsgd:
    """norm2(x) * sgn(x) * l / s, l in 0..s the stochastic rounding of s * abs(x) / norm2(x), s = floor(levels / 2).

    Unbiased; E norm2(error)^2 <= min(n / s^2, sqrt(n) / s) norm2(x)^2. Scale: the norm, 32 bits. With a `bucket` every
    so many elements are a vector of their own, with their own norm: 32 ceil(n / bucket) bits, and n in the bound is the
    bucket's. Alistarh et al., "QSGD", NeurIPS 2017, arXiv 1610.02132.
    """

    least = 2  # minus one, zero, one

    def __init__(self, bucket: int | None = None):
        self._bucket = bucket

    def quantize(self, x, levels):
        middle = self._middle(levels)
        buckets = self._buckets(x)
        norms = norm(buckets, axis=1)
        steps = tf.minimum(tf.math.divide_no_nan(tf.abs(buckets), norms), 1.0) * middle
        rounded = tf.reshape(round_randomly(steps, randomness.next_seed(), middle), [-1])[: x.shape[0]]
        return middle + tf.where(x < 0, -rounded, rounded), norms[:, 0]

    def restore(self, symbols, scale, levels):
        middle = self._middle(levels)
        return tf.reshape(self._buckets((symbols - middle) / middle) * scale[:, tf.newaxis], [-1])[: symbols.shape[0]]

    def _middle(self, levels: Number) -> tf.Tensor:
        """s, the symbol of zero."""
        return tf.floor(levels / 2.0)

    def _buckets(self, x: tf.Tensor) -> tf.Tensor:
        return in_blocks(x, min(self._bucket or x.shape[0], x.shape[0]))


@te.core.tf_style_encoding_stage
class LevelsStage(te.core.EncodingStageInterface):
    """A quantizer at a fixed width: float32 [n] to its symbols, float32 [n], and its scale."""

    name = "levels"
    ENCODED_VALUES_KEY = "quantized_values"
    SCALE_KEY = "scale"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False  # every client has its own scale
    decode_needs_input_shape = False

    def __init__(self, quantizer: Quantizer, bits: int):
        self._quantizer, self._levels = quantizer, float(2**bits - 1)

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        symbols, scale = self._quantizer.quantize(x, self._levels)
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, symbols), (self.SCALE_KEY, scale)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        symbols, scale = encoded_tensors[self.ENCODED_VALUES_KEY], encoded_tensors[self.SCALE_KEY]
        return self._quantizer.restore(symbols, scale, self._levels)


@te.core.tf_style_adaptive_encoding_stage
class ScheduledLevelsStage(te.core.AdaptiveEncodingStageInterface):
    """A quantizer whose number of levels follows a schedule. It travels with the message, int32: 32 bits a tensor.

    Only a code that adapts to the symbols may follow (`codes`: `packed` at least).
    """

    name = "scheduled_levels"
    ENCODED_VALUES_KEY = "quantized_values"
    SCALE_KEY = "scale"
    LEVELS_KEY = "scheduled_levels"  # what the round's width is measured from, see federated.coded
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = False

    def __init__(self, quantizer: Quantizer, schedule: Schedule):
        self._quantizer, self._schedule = quantizer, schedule

    @property
    def state_update_aggregation_modes(self):
        return collections.OrderedDict((key, te.core.StateAggregationMode.SUM) for key in self._schedule.sums)

    def initial_state(self):
        return self._schedule.initial_state()

    def update_state(self, state, state_update_tensors):
        return self._schedule.update(state, state_update_tensors)

    def get_params(self, state):
        return self._schedule.parameters(state), collections.OrderedDict()

    def encode(self, x, encode_params):
        levels = tf.maximum(self._schedule.levels(x, encode_params), self._quantizer.least)
        symbols, scale = self._quantizer.quantize(x, tf.cast(levels, tf.float32))
        encoded = [(self.ENCODED_VALUES_KEY, symbols), (self.SCALE_KEY, scale), (self.LEVELS_KEY, levels)]
        return collections.OrderedDict(encoded), self._schedule.observed(x)

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        symbols, scale = encoded_tensors[self.ENCODED_VALUES_KEY], encoded_tensors[self.SCALE_KEY]
        return self._quantizer.restore(symbols, scale, tf.cast(encoded_tensors[self.LEVELS_KEY], tf.float32))
