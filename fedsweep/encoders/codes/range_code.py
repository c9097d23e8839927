"""Range coding with the tensor's own histogram, by constriction.

Martin, "Range encoding: an algorithm for removing redundancy from a digitised message", 1979. The coder: Bamler,
"Understanding entropy coding with asymmetric numeral systems", 2022, arXiv 2201.01741, https://bamler-lab.github.io/constriction.
"""

from __future__ import annotations

import math
import struct

import constriction
import numpy as np
import tensorflow as tf

from fedsweep.encoders.codes.code import Code, histogram

HEADER = struct.Struct("<ii")  # low, alphabet size K
PRECISION = 24  # bits of constriction's probabilities


class Range(Code):
    """8 bytes, 4 for each of min..max (its count), then `words` words of 32 bits: about the entropy of the tensor.

    How many words the coder needs depends on how its integers round, symbol by symbol, which no graph can follow. So
    the format fixes their number from the counts, with the slack that `words` explains, and zeros fill the rest.
    """

    name = "range"

    def _size(self, symbols):
        _, counts = histogram(symbols)
        return HEADER.size + 4 * tf.size(counts, tf.int64) + 4 * words(counts)

    def _encode(self, symbols):
        low, counts = histogram(tf.constant(symbols, tf.int32))
        limit = int(words(counts))
        low, counts = low.numpy(), counts.numpy()
        header = HEADER.pack(low, len(counts)) + counts.astype("<u4").tobytes()
        if len(counts) == 1:
            return header
        encoder = constriction.stream.queue.RangeEncoder()
        ranks = np.cumsum(counts > 0, dtype=np.int32) - np.int32(1)
        encoder.encode(ranks[symbols - low], _model(counts))
        stream = encoder.get_compressed()
        if len(stream) > limit:
            raise ValueError(f"the range coder needs {len(stream)} words where its format has {limit}")
        return header + np.pad(stream, [0, limit - len(stream)]).astype("<u4").tobytes()

    def _decode(self, data, count):
        low, size = HEADER.unpack_from(data)
        if size == 1:
            return np.full(count, low)
        counts = np.frombuffer(data, "<u4", size, HEADER.size)
        stream = np.frombuffer(data, "<u4", offset=HEADER.size + 4 * size).astype(np.uint32)
        ranks = constriction.stream.queue.RangeDecoder(stream).decode(_model(counts), count)
        return low + np.flatnonzero(counts)[ranks]


def words(counts: tf.Tensor) -> tf.Tensor:
    """ceil((h + slack) / 32), int64: the words for n symbols of h = sum c * log2(n / c) bits. 0 for a constant tensor.

    slack = 32 - n * log2(1 - K / 2**24) + (n + h) / 2**11, with K the symbols that occur (K < 2**24 - 1), covers

    * the end: m words emitted while B bits were coded have 32 m < B, and one or two more words end the stream;
    * the probabilities: constriction gives each symbol 1 and a share, by its count, of the other 2**24 - K units;
    * the range, R: it is rounded to a multiple of 2**24, which loses up to log2(1 + 2**24 / R) bits, so 2**-7.4 a
      symbol at worst, where R is near its minimum, 2**32. R sinks there once in 32 bits of h, and by q bits a symbol
      on the way: a geometric series, 2**-7.4 / (1 - 2**-q) bits at most. 1 / (1 - 2**-q) <= 1 + 1.45 / q makes that
      h / 5600 + n / 3900. In the mean it is half of the n / 3900: 2**24 / R is lost by half.

    The last bound takes q as constant while R sinks. A tensor in collusion with the coder, rare symbols always where R
    is large, could lose more; `encode` would raise.
    """
    # Products with constants and not quotients, which TensorFlow may rewrite: `bits` and `encode` need the same result.
    present = tf.cast(tf.boolean_mask(counts, counts > 0), tf.float64)
    n, kinds = tf.reduce_sum(present), tf.cast(tf.size(present), tf.float64)
    information = tf.reduce_sum(present * (tf.math.log(n) - tf.math.log(present))) * (1 / math.log(2))
    slack = 32 - n * tf.math.log1p(kinds * -(2.0**-PRECISION)) * (1 / math.log(2)) + (n + information) * 2.0**-11
    return tf.where(kinds > 1, tf.cast(tf.math.ceil((information + slack) * 2.0**-5), tf.int64), 0)


def _model(counts: np.ndarray) -> constriction.stream.model.Categorical:
    """The symbols that occur, by their counts: as integers in float64 their cumulative sums are exact."""
    return constriction.stream.model.Categorical(counts[counts > 0].astype(np.float64), perfect=False)
