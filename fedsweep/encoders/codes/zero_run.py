"""Zero-run coding with Elias gamma: Mitchell et al., "Optimizing the communication-accuracy trade-off in federated
learning with rate-distortion theory", 2022, arXiv 2201.02664."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fedsweep.encoders.codes import folding
from fedsweep.encoders.codes.code import Code, runs_between, whole_bytes
from fedsweep.encoders.codes.universal import gamma_length, gamma_read, gamma_write


class ZeroRun(Code):
    """gamma(run + 1) for each run of the mode (often 0), gamma(n) for each other symbol, which folding makes n >= 1.

    They alternate: a run, maybe of length 0, is before every other symbol and after the last. 12 bytes of folding.
    """

    name = "zero_run"

    def _size(self, symbols):
        modes, folded, counts = folding.folded_histogram(symbols)
        # The mode is 0 after folding and not sent; gamma(1) stands in for it, as there is no gamma(0).
        others = tf.where(folded > 0, counts, 0) * gamma_length(tf.maximum(folded, 1))
        runs = gamma_length(runs_between(tf.not_equal(symbols, modes.mode)) + 1)
        return folding.HEADER.size + whole_bytes(tf.reduce_sum(others) + tf.reduce_sum(runs))

    def _encode(self, symbols):
        header, folded = folding.encode(symbols)
        others = folded[folded > 0]
        numbers = np.empty(2 * len(others) + 1, np.int64)
        numbers[0::2] = runs_between(tf.constant(folded > 0)) + 1
        numbers[1::2] = others
        return header + gamma_write(numbers)

    def _decode(self, data, count):
        modes, stream = folding.decode(data)
        numbers = gamma_read(stream, 2 * count + 1)
        runs, others = numbers[0::2] - 1, numbers[1::2]
        folded = np.zeros(count, np.int64)
        folded[np.cumsum(runs[:-1] + 1) - 1] = others
        return modes.unfold(folded)
