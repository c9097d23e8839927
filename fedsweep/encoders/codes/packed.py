"""Integers at one fixed width."""

from __future__ import annotations

import struct

import numpy as np
import tensorflow as tf

from fedsweep.encoders.codes import bitstream
from fedsweep.encoders.codes.code import Code, floor_log2, whole_bytes

HEADER = struct.Struct("<iB")  # low, width


class Packed(Code):
    """v - min in as many bits as max - min has: none if all are equal. 5 + ceil(n * width / 8) bytes."""

    name = "packed"

    def _size(self, symbols):
        low, high = tf.reduce_min(symbols), tf.reduce_max(symbols)
        # The bits of m: floor(log2 m) + 1 for m >= 1, which is floor(log2 2 m), and 0 for m = 0.
        width = floor_log2(tf.maximum(2 * (high - low), 1))
        return HEADER.size + whole_bytes(tf.size(symbols, tf.int64) * width)

    def _encode(self, symbols):
        low, high = int(symbols.min()), int(symbols.max())
        width = (high - low).bit_length()
        return HEADER.pack(low, width) + bitstream.write(symbols - np.int32(low), width)

    def _decode(self, data, count):
        low, width = HEADER.unpack_from(data)
        return low + bitstream.Reader(data[HEADER.size :]).peek(np.arange(count) * width, width)
