"""Bit streams on the host, vectorised. The first bit is the highest bit of the first byte; zeros fill the last byte.

A prefix code is read in three steps: for every bit of the stream, compute where a codeword that began there would end;
follow these jumps from bit 0 (the only loop in Python); extract the values at the starts so found, all at once.
"""

from __future__ import annotations

import numpy as np


def write(values: np.ndarray, lengths: np.ndarray | int) -> bytes:
    """Concatenates the codewords, each a value >= 0 with leading zeros up to a length (any, so unary is a 1)."""
    ends = np.cumsum(np.broadcast_to(lengths, values.shape), dtype=np.int64)
    bits = np.zeros(ends[-1], np.uint8)
    for place in range(int(values.max()).bit_length()):
        ones = np.flatnonzero(values >> place & 1)
        bits[ends[ones] - 1 - place] = 1
    return np.packbits(bits).tobytes()


class Reader:
    """Random access to a bit stream."""

    def __init__(self, data: bytes):
        self.size = 8 * len(data)
        octets = np.frombuffer(data + bytes(8), np.uint8)
        # words[i]: the 64 bits from byte i on
        windows = np.lib.stride_tricks.sliding_window_view(octets, 8)
        self._words = np.ascontiguousarray(windows).view(">u8")[:, 0].astype(np.uint64)

    def positions(self) -> np.ndarray:
        """int32 [size]. (int32: these arrays have one entry a bit, and no message has 2**31 bits.)"""
        return np.arange(self.size, dtype=np.int32)

    def peek(self, positions: np.ndarray, lengths: np.ndarray | int) -> np.ndarray:
        """The numbers, int64, in the `lengths` bits (up to 57 of them) from `positions` on; zeros follow the stream."""
        words = self._words[positions >> 3] << (positions & 7).astype(np.uint64)
        lengths = np.asarray(lengths, np.uint64)
        # In two steps, as a shift by 64 is no shift on some processors.
        return (words >> np.uint64(1) >> (np.uint64(63) - lengths)).astype(np.int64)

    def next_ones(self) -> np.ndarray:
        """int32 [size]: for every position, that of the first 1 from there on, or `size`."""
        bits = np.unpackbits((self._words[:-1] >> np.uint64(56)).astype(np.uint8))
        ones = np.where(bits, self.positions(), np.int32(self.size))
        return np.minimum.accumulate(ones[::-1])[::-1]


def follow(jumps: np.ndarray, count: int) -> np.ndarray:
    """The starts of the first `count` codewords, or of as many as there are: 0, jumps[0], jumps[jumps[0]], ..."""
    jump = memoryview(np.ascontiguousarray(jumps))  # its items are Python's integers: faster than NumPy's
    starts, start, end = [], 0, len(jump)
    while len(starts) < count and start < end:
        starts.append(start)
        start = jump[start]
    return np.array(starts, np.int64)
