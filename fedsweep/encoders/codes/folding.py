"""Signed symbols as integers n >= 0, smallest for the symbols near the most frequent one: what universal codes need."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fedsweep.encoders.codes.code import histogram

HEADER = struct.Struct("<iii")  # mode, below, above


class Folding(NamedTuple):
    """The mode (the least, if several symbols are the most frequent) and how far symbols lie below and above it."""

    mode: int | tf.Tensor
    below: int | tf.Tensor
    above: int | tf.Tensor

    def fold(self, symbols: tf.Tensor) -> tf.Tensor:
        """t = v - mode: 0, 1, -1, 2, ... as 0, 1, 2, 3, ... while both signs occur; |t| + min(below, above) beyond.

        Every n from 0 to max - min is used, so a one-sided alphabet, such as gaps, loses no bit to a sign.
        """
        t = symbols - self.mode
        both = tf.minimum(self.below, self.above)
        return tf.where(tf.abs(t) <= both, tf.where(t > 0, 2 * t - 1, -2 * t), tf.abs(t) + both)

    def unfold(self, folded: np.ndarray) -> np.ndarray:
        """The inverse of `fold`, on the host."""
        both = min(self.below, self.above)
        zigzag = np.where(folded % 2 == 1, folded // 2 + 1, -(folded // 2))
        one_sided = folded - both if self.above > self.below else both - folded
        return self.mode + np.where(folded <= 2 * both, zigzag, one_sided)


def folded_histogram(symbols: tf.Tensor) -> tuple[Folding, tf.Tensor, tf.Tensor]:
    """(folding, folded, counts): what each symbol of the alphabet becomes, int32 [K], and its count, int64 [K]."""
    low, counts = histogram(symbols)
    mode = tf.argmax(counts, output_type=tf.int32)
    folding = Folding(mode, below=mode, above=tf.size(counts) - 1 - mode)
    folded = folding.fold(tf.range(tf.size(counts)))
    return folding._replace(mode=low + mode), folded, counts


def encode(symbols: np.ndarray) -> tuple[bytes, np.ndarray]:
    """(header, folded int64 [n]) on the host, by the same functions as in the graph."""
    folding, _, _ = folded_histogram(tf.constant(symbols, tf.int32))
    return HEADER.pack(*map(int, folding)), folding.fold(symbols).numpy().astype(np.int64)


def decode(data: bytes) -> tuple[Folding, bytes]:
    """(folding, the bytes after the header)."""
    return Folding(*HEADER.unpack_from(data)), data[HEADER.size :]
