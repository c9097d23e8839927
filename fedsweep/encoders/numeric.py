"""Small numerical tools of several stages. All survive zeros, numbers near 1e-38 and numbers near 1e30."""

from __future__ import annotations

import math

import tensorflow as tf

from fedsweep.encoders import randomness
from fedsweep.encoders.codes.code import floor_log2


def normalized(x: tf.Tensor, axis: int | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """(x / m, m) with m the largest absolute value: sums of squares of the first neither overflow nor vanish.

    x is float32 [n], or with an axis [..., n, ...], and n > 0; where m = 0 the quotient is 0.
    """
    largest = tf.reduce_max(tf.abs(x), axis, keepdims=axis is not None)
    return tf.math.divide_no_nan(x, largest), largest


def norm(x: tf.Tensor, axis: int | None = None) -> tf.Tensor:
    """The Euclidean norm of float32 [n]; along an axis, which stays with size 1, where one is given."""
    unit, largest = normalized(x, axis)
    return largest * tf.sqrt(tf.reduce_sum(tf.square(unit), axis, keepdims=axis is not None))


def round_randomly(x: tf.Tensor, seed: tf.Tensor, most: float | tf.Tensor = 1.0) -> tf.Tensor:
    """x, in [0, most], rounded up with the probability of its fraction, else down; an integer stays what it is.

    `most` is an integer below 2**16, of w bits. The probability is a multiple of 2**-15, or of 2**(w-23) where that is
    coarser (twice float32's resolution at `most`), the nearest one: abs(E[result] - x) is at most half of it, and
    2**-25 more below 1/2, where x has bits that the sum with the noise has not.
    """
    # From 1/2 on, x + u is exact where it could reach the next integer: 24 bits hold `most` and the noise.
    width = tf.cast(floor_log2(tf.cast(most, tf.int32)) + 1, tf.int32)
    noise = randomness.dither(tf.size(x), seed, tf.minimum(16, 24 - width))
    return tf.floor(x + tf.reshape(noise, tf.shape(x)))


def padded_to(x: tf.Tensor, size: int) -> tf.Tensor:
    """[n] filled up with zeros to [size]."""
    return tf.pad(x, [[0, size - x.shape[0]]])


def in_blocks(x: tf.Tensor, block: int) -> tf.Tensor:
    """[n] as [ceil(n / block), block], filled up with zeros."""
    rows = math.ceil(x.shape[0] / block)
    return tf.reshape(padded_to(x, rows * block), [rows, block])


def largest_positions(keys: tf.Tensor, k: int) -> tf.Tensor:
    """The positions, int32 [k] ascending, of the k largest of `keys` (float32 [n], none negative; ties: the first).

    Numbers that are not negative sort like their bit patterns, so two histograms of patterns find the k-th largest
    exactly, in the time of a few passes, whatever k (a heap of k, TensorFlow's top_k, slows down as k grows).
    """
    patterns = tf.bitcast(keys, tf.int32)
    upper = tf.bitwise.right_shift(patterns, 15)  # 16 bits
    first, left = _bin_of_kth(upper, 1 << 16, k)
    # Patterns in the bin of the k-th, by their lower 15 bits; all others fall into a bin that is not looked at.
    lower = tf.where(tf.equal(upper, first), tf.bitwise.bitwise_and(patterns, (1 << 15) - 1), 1 << 15)
    second, left = _bin_of_kth(lower, 1 << 15, left)
    threshold = tf.bitwise.bitwise_or(tf.bitwise.left_shift(first, 15), second)
    level = tf.equal(patterns, threshold)
    last = tf.cast(tf.where(level)[left - 1, 0], tf.int32)  # of those at the threshold that have a place
    level = tf.logical_and(level, tf.range(tf.size(patterns)) <= last)
    positions = tf.where(tf.logical_or(patterns > threshold, level))[:, 0]
    return tf.ensure_shape(tf.cast(positions, tf.int32), [k])


def _bin_of_kth(values: tf.Tensor, bins: int, k: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(the bin that holds the k-th largest of values, which place among the bin's it has, from 1).

    Values at or above `bins` do not count.
    """
    counts = tf.raw_ops.DenseBincount(input=values, size=bins, weights=tf.constant([], tf.int32))
    at_least = tf.cumsum(counts, reverse=True)
    found = tf.cast(tf.reduce_sum(tf.cast(at_least >= k, tf.int32)), tf.int32) - 1
    return found, k - (at_least[found] - counts[found])
