"""Linear sketches and factors: a count sketch that sums at the server, and low-rank factors."""

from __future__ import annotations

import collections
import math

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import randomness
from fedsweep.encoders.numeric import largest_positions, normalized
from fedsweep.encoders.sparse import kept, scattered


@te.core.tf_style_encoding_stage
class CountSketchStage(te.core.EncodingStageInterface):
    """S[j, h_j(i)] += s_j(i) x_i: float32 [rows, columns], columns = ceil(share * n / rows).

    Encoding is linear, so the sum of the clients' sketches is the sketch of their sum, and the server unsketches that
    once (`tree.DecodedOnce`): element i is the median over rows of s_j(i) S[j, h_j(i)], and the `recovered` share of
    elements with the largest estimates is kept, the others are zero. Neither is linear: unsketching the sum finds
    elements that no client's sketch shows, and the stage commutes with sums only where there is nothing of both.
    Buckets h and signs s follow from the server's seed, the same for all clients of a round: int32 [2], 64 bits a
    tensor on the downlink. Charikar et al. 2002; Rothchild et al. (FetchSGD), ICML 2020, arXiv 2007.07682.
    """

    name = "count_sketch"
    SKETCH_KEY = "sketch"
    SEED_KEY = "seed"
    compressible_tensors_keys = ()
    decode_needs_input_shape = True

    def __init__(self, share: float, rows: int, recovered: float):
        self._share, self._rows, self._recovered = share, rows, recovered

    @property
    def commutes_with_sum(self):
        return self._rows == 1 and self._recovered == 1

    def get_params(self):
        params = collections.OrderedDict([(self.SEED_KEY, randomness.next_seed())])
        return params, params

    def encode(self, x, encode_params):
        columns = self.columns(x.shape[0])
        rows = []
        for row in range(self._rows):
            buckets, flips = self._hashes(encode_params[self.SEED_KEY], row, x.shape[0])
            rows.append(tf.math.unsorted_segment_sum(x * flips, buckets, columns))
        return collections.OrderedDict([(self.SKETCH_KEY, tf.stack(rows))])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del num_summands  # of one sketch as of a sum
        size, sketch = int(tf.get_static_value(shape)[0]), encoded_tensors[self.SKETCH_KEY]
        guesses = []
        for row in range(self._rows):
            buckets, flips = self._hashes(decode_params[self.SEED_KEY], row, size)
            guesses.append(tf.gather(sketch[row], buckets) * flips)
        estimate = _median(guesses)
        positions = largest_positions(tf.abs(estimate), kept(self._recovered, size))
        return scattered(tf.gather(estimate, positions), positions, size)

    def columns(self, size: int) -> int:
        return max(1, math.ceil(self._share * size / self._rows))

    def _hashes(self, seed: tf.Tensor, row: int, size: int) -> tuple[tf.Tensor, tf.Tensor]:
        """(buckets int32 [n], signs float32 [n]) of one row, from one random word an element."""
        words = tf.random.stateless_uniform(
            [size], randomness.fold_in(seed, row), minval=None, maxval=None, dtype=tf.int32
        )
        signs = tf.where(words < 0, -1.0, 1.0)
        return tf.bitwise.bitwise_and(words, 2**31 - 1) % self.columns(size), signs


def _median(values: list[tf.Tensor]) -> tf.Tensor:
    """Element by element; the mean of the middle two for an even number."""
    if len(values) == 1:
        return values[0]
    if len(values) == 3:  # the usual case, many times as fast as sorting
        a, b, c = values
        return tf.maximum(tf.minimum(a, b), tf.minimum(tf.maximum(a, b), c))
    ordered, half = tf.sort(tf.stack(values, axis=1), axis=1), len(values) // 2
    return ordered[:, half] if len(values) % 2 else (ordered[:, half - 1] + ordered[:, half]) / 2


@te.core.tf_style_encoding_stage
class LowRankStage(te.core.EncodingStageInterface):
    """Factors of a matrix M [n, m]: P, float32 [n, rank], orthonormal, and Q = M^T P, float32 [m, rank]; M ~ P Q^T.

    One power iteration from a random Q0: P = orthonormal basis of M Q0, which loses nothing if M has at most that rank.
    The matrix is the tensor with all axes but the last made one. Vogels et al. (PowerSGD), NeurIPS 2019, arXiv
    1905.13727, without its averaging of P among the clients, which takes a second exchange a round.
    """

    name = "low_rank"
    P_KEY, Q_KEY = "p", "q"
    compressible_tensors_keys = ()
    commutes_with_sum = False
    decode_needs_input_shape = True

    def __init__(self, rank: int, columns: int):
        self._rank, self._columns = rank, columns

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        unit, largest = normalized(x)
        matrix = tf.reshape(unit, [-1, self._columns])
        start = tf.random.stateless_normal([self._columns, self._rank], randomness.next_seed())
        p, _ = tf.linalg.qr(matrix @ start)
        q = tf.matmul(matrix, p, transpose_a=True) * largest
        return collections.OrderedDict([(self.P_KEY, p), (self.Q_KEY, q)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands  # none; never summed before it is decoded
        product = tf.matmul(encoded_tensors[self.P_KEY], encoded_tensors[self.Q_KEY], transpose_b=True)
        return tf.reshape(product, shape)
