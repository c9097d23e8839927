"""Codes for integers of any size, without a table: Elias gamma and delta, and Golomb-Rice.

Elias, "Universal codeword sets and representations of the integers", IEEE Trans. Inf. Theory 21(2), 1975.
Rice, "Some practical universal noiseless coding techniques", JPL 79-22, 1979. Symbols are folded (see `folding`) first.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fedsweep.encoders.codes import bitstream, folding
from fedsweep.encoders.codes.code import Code, floor_log2, whole_bytes

MAX_RICE = 24  # 2**24 > max - min: no tensor asks for more


class EliasGamma(Code):
    """n + 1 by Elias gamma. 12 bytes of folding."""

    name = "elias_gamma"

    def _size(self, symbols):
        _, folded, counts = folding.folded_histogram(symbols)
        return folding.HEADER.size + whole_bytes(tf.reduce_sum(counts * gamma_length(folded + 1)))

    def _encode(self, symbols):
        header, folded = folding.encode(symbols)
        return header + gamma_write(folded + 1)

    def _decode(self, data, count):
        folded, stream = folding.decode(data)
        return folded.unfold(gamma_read(stream, count) - 1)


class EliasDelta(Code):
    """n + 1 by Elias delta: the bit length L = floor(log2(n + 1)) + 1 by gamma, then the L - 1 bits below the first.

    12 bytes of folding.
    """

    name = "elias_delta"

    def _size(self, symbols):
        _, folded, counts = folding.folded_histogram(symbols)
        log = floor_log2(folded + 1)
        return folding.HEADER.size + whole_bytes(tf.reduce_sum(counts * (gamma_length(log + 1) + log)))

    def _encode(self, symbols):
        header, folded = folding.encode(symbols)
        log = _floor_log2(folded + 1)
        # gamma(L) ends with L; below it, n + 1 without its first bit
        values = (log + 1 << log) + (folded + 1 - (1 << log))
        return header + bitstream.write(values, 2 * _floor_log2(log + 1) + 1 + log)

    def _decode(self, data, count):
        folded, stream = folding.decode(data)
        reader = bitstream.Reader(stream)
        ones = reader.next_ones()
        # L <= 25 has 5 bits at most, so 4 zeros; more of them occur only where no codeword begins.
        zeros = np.minimum(ones - reader.positions(), 4)
        logs = reader.peek(ones, zeros + 1).astype(np.int32) - 1
        behind = ones + zeros + 1
        starts = bitstream.follow(behind + logs, count)
        log = logs[starts].astype(np.int64)
        return folded.unfold((1 << log) + reader.peek(behind[starts], log) - 1)


class GolombRice(Code):
    """n >> k in unary (zeros, then a 1), then the k low bits of n, with the best k. 12 bytes of folding, 1 of k."""

    name = "golomb_rice"

    def _size(self, symbols):
        _, folded, counts = folding.folded_histogram(symbols)
        return folding.HEADER.size + 1 + whole_bytes(tf.reduce_min(_rice_bits(folded, counts)))

    def _encode(self, symbols):
        _, alphabet, counts = folding.folded_histogram(tf.constant(symbols, tf.int32))
        k = int(tf.argmin(_rice_bits(alphabet, counts)))
        header, folded = folding.encode(symbols)
        stream = bitstream.write((1 << k) + (folded & (1 << k) - 1), (folded >> k) + 1 + k)
        return header + bytes([k]) + stream

    def _decode(self, data, count):
        folded, data = folding.decode(data)
        k, reader = data[0], bitstream.Reader(data[1:])
        ones = reader.next_ones()
        starts = bitstream.follow(ones + np.int32(1 + k), count)
        ends = ones[starts]
        return folded.unfold((ends - starts << k) + reader.peek(ends + 1, k))


def _rice_bits(folded: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """The bits of the stream for k = 0, 1, ..., 24: int64 [25]."""

    def bits(k: tf.Tensor) -> tf.Tensor:
        quotients = tf.cast(tf.bitwise.right_shift(folded, k), tf.int64)
        return tf.reduce_sum(counts * (quotients + 1 + tf.cast(k, tf.int64)))

    return tf.map_fn(bits, tf.range(MAX_RICE + 1), fn_output_signature=tf.int64)


def gamma_length(x: tf.Tensor) -> tf.Tensor:
    """Bits of x >= 1 by Elias gamma, int64: floor(log2 x) zeros, then x, which begins with a 1."""
    return 2 * floor_log2(x) + 1


def gamma_write(x: np.ndarray) -> bytes:
    return bitstream.write(x, 2 * _floor_log2(x) + 1)


def gamma_read(data: bytes, count: int) -> np.ndarray:
    """The first `count` numbers, or as many as there are: the zeros that fill the last byte are none."""
    reader = bitstream.Reader(data)
    ones = reader.next_ones()
    starts = bitstream.follow(2 * ones - reader.positions() + 1, count)
    first = ones[starts]
    starts, first = starts[first < reader.size], first[first < reader.size]
    return reader.peek(first, first - starts + 1)


def _floor_log2(x: np.ndarray) -> np.ndarray:
    """As `code.floor_log2`, on the host: x = m * 2**e with 0.5 <= m < 1."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64) - 1
