"""Quartic encoding and zero-run encoding of ternary tensors.

3LC: Lim, Andersen and Kaminsky, "3LC: lightweight and effective traffic compression for distributed machine learning",
2018, arXiv 1802.07389.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fedsweep.encoders.codes.code import Code, runs_between

GROUP = 5  # 3**5 = 243 fit a byte
PLACES = 3 ** np.arange(GROUP - 1, -1, -1)
ZEROS = 121  # the byte of five zeros
LONGEST = 14  # the bytes 243 to 255 stand for 2 to 14 bytes ZEROS
RUN = 3**GROUP - 2  # RUN + r for a run of r


class QuarticRuns(Code):
    """Symbols -1, 0, 1: five to a byte, and up to 14 bytes of zeros to one. From 8 / 70 to 1.6 bits a symbol."""

    name = "quartic_runs"

    def _size(self, symbols):
        groups = tf.reshape(tf.pad(symbols, [[0, -tf.size(symbols) % GROUP]]), [-1, GROUP])
        runs = runs_between(tf.reduce_any(tf.not_equal(groups, 0), 1))
        # Every group that is not zero is a byte, and there is one group less than there are runs around them.
        return tf.size(runs, tf.int64) - 1 + tf.reduce_sum((runs + LONGEST - 1) // LONGEST)

    def _encode(self, symbols):
        if np.abs(symbols).max() > 1:
            raise ValueError(f"symbols from {symbols.min()} to {symbols.max()}: quartic_runs takes -1, 0 and 1")
        groups = np.pad(symbols, [0, -len(symbols) % GROUP]).reshape(-1, GROUP)
        octets = (groups + 1) @ PLACES
        # A byte begins at each group that is not zero, and at every 14th since the last of those.
        places = np.arange(len(octets))
        last = np.maximum.accumulate(np.where(octets == ZEROS, -1, places))
        begins = np.flatnonzero((places - last - 1) % LONGEST * (octets == ZEROS) == 0)
        lengths = np.diff(begins, append=len(octets))
        return np.where(lengths > 1, RUN + lengths, octets[begins]).astype(np.uint8).tobytes()

    def _decode(self, data, count):
        octets = np.frombuffer(data, np.uint8).astype(np.int64)
        is_run = octets >= 3**GROUP
        octets = np.repeat(np.where(is_run, ZEROS, octets), np.where(is_run, octets - RUN, 1))
        return (octets[:, np.newaxis] // PLACES % 3 - 1).reshape(-1)[:count]
