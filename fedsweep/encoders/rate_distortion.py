"""Rounding to multiples of a step that the clients vote on, for a lossless code behind it."""

from __future__ import annotations

import collections

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders.codes import Code
from fedsweep.encoders.numeric import normalized

STEPS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of a tensor's root mean square
_FIRST = STEPS.index(1.0)
_LARGEST = 2**20  # symbols: beyond that many steps from zero a value is clipped
_BLOCKS, _BLOCK = 64, 1 << 10  # a client votes by so many stretches, of at most so many elements


@te.core.tf_style_adaptive_encoding_stage
class RateDistortionStage(te.core.AdaptiveEncodingStageInterface):
    """round(x / (step * rms)), rms the tensor's root mean square; next round's step is the clients' majority vote.

    A client votes for the step of `STEPS` with the least D + trade_off * R: D the mean squared error over rms^2, R the
    bits an element that `code` would take, both on 65,536 of the tensor's elements, in 64
    stretches from all over it (its first rows would stand for the first inputs alone). Votes are summed (int32
    [len(STEPS)] on the uplink), ties go to the smaller step; the first round uses 1. Mitchell et al. 2022, arXiv
    2201.02664; there steps are absolute, which would make them depend on the client's weight.
    Encodes float32 [n] as symbols, float32 integers [n], and step * rms, float32 [1].
    """

    name = "rate_distortion"
    ENCODED_VALUES_KEY = "symbols"
    STEP_KEY = "step"
    VOTES_KEY = "votes"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = False
    state_update_aggregation_modes = collections.OrderedDict(  # noqa: RUF012
        votes=te.core.StateAggregationMode.SUM
    )

    def __init__(self, trade_off: float, code: Code):
        self._trade_off, self._code = trade_off, code

    def initial_state(self):
        return collections.OrderedDict(chosen=tf.constant(_FIRST, tf.int32))

    def update_state(self, state, state_update_tensors):
        del state  # this round's votes alone
        chosen = tf.argmax(state_update_tensors[self.VOTES_KEY], output_type=tf.int32)
        return collections.OrderedDict(chosen=chosen)

    def get_params(self, state):
        step = tf.gather(tf.constant(STEPS), state["chosen"])
        return collections.OrderedDict(step=step), collections.OrderedDict()

    def encode(self, x, encode_params):
        unit, largest = normalized(x)
        rms = tf.sqrt(tf.reduce_mean(tf.square(unit)))
        relative = tf.math.divide_no_nan(unit, rms)
        encoded = collections.OrderedDict(
            [
                (self.ENCODED_VALUES_KEY, _rounded(relative, encode_params["step"])),
                (self.STEP_KEY, (encode_params["step"] * rms * largest)[tf.newaxis]),
            ]
        )
        return encoded, collections.OrderedDict([(self.VOTES_KEY, self._vote(_sample(relative)))])

    def _vote(self, x: tf.Tensor) -> tf.Tensor:
        costs = []
        for step in STEPS:
            symbols = _rounded(x, step)
            distortion = tf.reduce_mean(tf.square(x - symbols * step))
            rate = tf.cast(self._code.bits(tf.cast(symbols, tf.int32)), tf.float32) / x.shape[0]
            costs.append(distortion + self._trade_off * rate)
        return tf.one_hot(tf.argmin(costs), len(STEPS), dtype=tf.int32)

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        return encoded_tensors[self.ENCODED_VALUES_KEY] * encoded_tensors[self.STEP_KEY][0]


def _sample(x: tf.Tensor) -> tf.Tensor:
    """Stretches of the tensor, evenly spread; all of a small one."""
    length = x.shape[0] // _BLOCKS
    if length <= _BLOCK:
        return x
    return tf.reshape(tf.reshape(x[: _BLOCKS * length], [_BLOCKS, length])[:, :_BLOCK], [-1])


def _rounded(x: tf.Tensor, step: float | tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.round(x / step), -_LARGEST, _LARGEST)
