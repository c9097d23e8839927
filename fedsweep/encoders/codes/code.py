"""The interface of all codes, and what they share: the histogram of the symbols, and runs, as TensorFlow graphs."""

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np
import tensorflow as tf

SPAN = 2**24  # max - min of the symbols of a tensor is below it
MOST_SYMBOLS = 2**24  # of a tensor: at up to 50 bits each, their number of bits fits int32, and gaps keep within SPAN


class Code(abc.ABC):
    """A lossless code for int32 [n] with max - min < 2**24. Both sides know n; the bytes hold everything else.

    Subclasses see only n > 0: a tensor without elements is a message without bytes.
    """

    name: ClassVar[str]

    def bits(self, symbols: tf.Tensor) -> tf.Tensor:
        """8 * len(self.encode(symbols)), an int32 scalar, with TensorFlow operations only."""
        return tf.cond(
            tf.size(symbols) > 0,
            lambda: tf.cast(8 * self._size(symbols), tf.int32),
            lambda: tf.constant(0),
        )

    def encode(self, symbols: np.ndarray) -> bytes:
        if len(symbols) == 0:
            return b""
        low, high = int(symbols.min()), int(symbols.max())
        if high - low >= SPAN:
            raise ValueError(f"symbols from {low} to {high}: a code takes max - min < {SPAN}")
        return self._encode(symbols)

    def decode(self, data: bytes, count: int) -> np.ndarray:
        """The int32 [count] that `encode` was given."""
        return self._decode(data, count).astype(np.int32) if count else np.zeros(0, np.int32)

    @abc.abstractmethod
    def _size(self, symbols: tf.Tensor) -> tf.Tensor:
        """The bytes of the message, an int64 scalar."""

    @abc.abstractmethod
    def _encode(self, symbols: np.ndarray) -> bytes: ...

    @abc.abstractmethod
    def _decode(self, data: bytes, count: int) -> np.ndarray: ...


def histogram(symbols: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(low, counts): the least symbol, int32, and how often low, low + 1, ..., the greatest occur, int64 [K]."""
    low, high = tf.reduce_min(symbols), tf.reduce_max(symbols)
    # The raw operation: tf.math.bincount checks its input in several more passes. int64 is its fastest type.
    counts = tf.raw_ops.DenseBincount(input=symbols - low, size=high - low + 1, weights=tf.zeros([0], tf.int64))
    return low, tf.ensure_shape(counts, [None])  # its rank is lost where its size is dynamic


def runs_between(marked: tf.Tensor) -> tf.Tensor:
    """How many False lie before, between and after the m True of a bool [n]: int64 [m + 1]."""
    edges = tf.concat([[-1], tf.where(marked)[:, 0], [tf.size(marked, tf.int64)]], 0)
    return edges[1:] - edges[:-1] - 1


def floor_log2(x: tf.Tensor) -> tf.Tensor:
    """floor(log2 x) of integers in [1, 2**53), int64: float64's exponent. (tf.math.log is not exact.)"""
    return tf.bitwise.right_shift(tf.bitcast(tf.cast(x, tf.float64), tf.int64), 52) - 1023


def whole_bytes(bits: tf.Tensor) -> tf.Tensor:
    """The bytes of a padded stream of `bits` bits."""
    return (bits + 7) // 8
