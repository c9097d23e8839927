"""Canonical Huffman codes, their lengths found in the TensorFlow graph by package-merge.

Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", J. ACM 37(3), 1990.
"""

from __future__ import annotations

import struct

import numpy as np
import tensorflow as tf

from fedsweep.encoders.codes import bitstream
from fedsweep.encoders.codes.code import Code, histogram, whole_bytes

HEADER = struct.Struct("<ii")  # low, alphabet size K
LONGEST = 24  # bits of a codeword; a longer one needs a tensor of at least F(27) = 196,418 symbols
NEVER = 2**40  # heavier than any package: those of a level weigh LONGEST * n at most


class Huffman(Code):
    """An optimal prefix code, with codewords of up to 24 bits. 8 bytes, 1 for each of min..max (its length), stream.

    A constant tensor has no stream: its one symbol has 0 bits.
    """

    name = "huffman"

    def _size(self, symbols):
        _, counts = histogram(symbols)
        present = tf.boolean_mask(counts, counts > 0)
        stream = tf.reduce_sum(present * tf.cast(code_lengths(present), tf.int64))
        return HEADER.size + tf.size(counts, tf.int64) + whole_bytes(stream)

    def _encode(self, symbols):
        low, counts = (x.numpy() for x in histogram(tf.constant(symbols, tf.int32)))
        table = np.zeros(len(counts), np.uint8)
        table[counts > 0] = code_lengths(tf.constant(counts[counts > 0]))
        header = HEADER.pack(low, len(table)) + table.tobytes()
        if len(table) == 1:
            return header
        order, lengths, codes = _canonical(table)
        codewords = np.zeros(len(table), np.int64)
        codewords[order] = codes >> (LONGEST - lengths)
        indices = symbols - low
        return header + bitstream.write(codewords[indices], table[indices])

    def _decode(self, data, count):
        low, size = HEADER.unpack_from(data)
        if size == 1:
            return np.full(count, low)
        order, lengths, codes = _canonical(np.frombuffer(data, np.uint8, size, HEADER.size))
        reader = bitstream.Reader(data[HEADER.size + size :])
        positions = reader.positions()
        # A codeword, followed by whatever comes next, lies between its own code and the next one's.
        found = np.searchsorted(codes, reader.peek(positions, LONGEST), "right") - 1
        starts = bitstream.follow(positions + lengths[found].astype(np.int32), count)
        return low + order[found[starts]]


def code_lengths(counts: tf.Tensor) -> tf.Tensor:
    """The lengths, int32 [K], of an optimal prefix code of at most 24 bits for K <= 2**24 counts > 0 (int64).

    Package-merge. The items of the first level are the counts; those of each next level are the counts again and the
    packages, the pairs of neighbours of the sorted level before. Of the last level the 2 K - 2 lightest items are
    taken, and of each level before what is in the packages taken. A symbol's length is how often its count is taken.
    """
    order = tf.argsort(counts, stable=True)
    counts = tf.gather(counts, order)
    size = tf.size(counts)

    def packages_of_next_level(packages, _):
        items = tf.sort(tf.concat([counts, packages], 0))
        return tf.minimum(items[:-1:2] + items[1::2], NEVER)

    # K - 1 packages at every level, of which some are NEVER, so that the levels are rows of one tensor.
    first = tf.fill([size - 1], tf.constant(NEVER, tf.int64))
    later = tf.scan(packages_of_next_level, tf.range(LONGEST - 1), first)
    packages = tf.concat([first[tf.newaxis], later], 0)
    # Places of the counts in their sorted level; a count precedes a package of its weight.
    places = tf.range(size) + tf.searchsorted(packages, tf.tile(counts[tf.newaxis], [LONGEST, 1]))

    def take(state, places):
        items, lengths = state
        taken = tf.cast(places < items, tf.int32)
        return 2 * (items - tf.reduce_sum(taken)), lengths + taken

    _, lengths = tf.foldr(take, places, (2 * size - 2, tf.zeros_like(order)))
    return tf.scatter_nd(order[:, tf.newaxis], lengths, [size])


def _canonical(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The symbols with a codeword by length, then value; their lengths; their codewords, filled up to 24 bits."""
    order = np.argsort(table, kind="stable")[np.count_nonzero(table == 0) :]
    lengths = table[order].astype(np.int64)
    widths = 1 << (LONGEST - lengths)
    return order, lengths, np.cumsum(widths) - widths
