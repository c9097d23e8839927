"""Quantization to a codebook: EDEN's and NormalFloat's are fixed, Lloyd-Max fits one to the tensor."""

from __future__ import annotations

import collections
import itertools
import math

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import gaussian, randomness
from fedsweep.encoders.numeric import in_blocks, normalized
from fedsweep.encoders.sparse import random_positions, scattered


def nearest(x: tf.Tensor, levels: tuple[float, ...]) -> tf.Tensor:
    """The index, int32, of the level nearest to each element of x; `levels` ascending."""
    boundaries = [(a + b) / 2 for a, b in itertools.pairwise(levels)]
    if len(boundaries) <= 3:  # a few comparisons are several times as fast as a search
        return sum((tf.cast(x > boundary, tf.int32) for boundary in boundaries), tf.zeros(tf.shape(x), tf.int32))
    return tf.raw_ops.Bucketize(input=x, boundaries=boundaries)


@te.core.tf_style_encoding_stage
class EdenStage(te.core.EncodingStageInterface):
    """The quantizer of EDEN, for a tensor y that a random rotation has made look normal (`rotation.OwnRotationStage`).

    With z = y sqrt(n) / norm2(y), each element of z goes to the nearest Lloyd-Max level c of N(0, 1), and the receiver
    takes S c with S = norm2(y)^2 / <c, y>: unbiased after a uniformly random rotation; error^2 / norm2^2 tends to
    1 / (1 - D) - 1, D the quantizer's distortion (0.571 at 1 bit, 0.133 at 2, 0.0358 at 3). Vargaftik et al., ICML
    2022, arXiv 2108.08842.

    Any real `bits`: the first elements get ceil(bits), the others floor(bits), so that the mean is `bits`. Below 1 bit
    some get 1 bit and the others nothing; S makes up for them. Those are drawn, and the seed of the draw is sent: the
    first rows of a Hadamard matrix are no random rows, and what they see of a sparse tensor can cancel. Encodes float32
    [n] as symbols `high` [h], `low` [n - h] or none, S float32 [1], below 1 bit int32 [2], 64 bits more.
    """

    name = "eden"
    SCALE_KEY = "scale"
    SEED_KEY = "seed"
    commutes_with_sum = False
    decode_needs_input_shape = True

    def __init__(self, bits: float):
        self._bits = bits
        self._sparse = bits < 1

    @property
    def compressible_tensors_keys(self):
        return [key for key, _ in self.widths()]

    def widths(self) -> list[tuple[str, int]]:
        """(key, bits) of the parts that are sent."""
        high = math.ceil(self._bits)
        return [("high", high)] if high == self._bits or high == 1 else [("high", high), ("low", high - 1)]

    def counts(self, size: int) -> list[int]:
        """Elements of each part; together `bits` * size bits, at least one element."""
        parts = self.widths()
        if len(parts) == 1:
            return [max(1, round(size * min(self._bits, 1.0))) if size else 0]
        high = round(size * (self._bits - parts[1][1]))
        return [high, size - high]

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        unit, largest = normalized(x)
        squares = tf.reduce_sum(tf.square(unit))
        standard = unit * tf.math.divide_no_nan(math.sqrt(x.shape[0]), tf.sqrt(squares))
        more = []
        if self._sparse:
            more = [(self.SEED_KEY, randomness.next_seed())]
            places = random_positions(more[0][1], self.counts(x.shape[0])[0], x.shape[0])
            standard, unit = tf.gather(standard, places), tf.gather(unit, places)
        symbols, product, start = [], 0.0, 0
        for (key, bits), count in zip(self.widths(), self.counts(x.shape[0]), strict=True):
            part = slice(start, start + count)
            index = nearest(standard[part], gaussian.lloyd_max(bits))
            product += tf.reduce_sum(_level(index, bits) * unit[part])
            symbols.append((key, tf.cast(index, tf.float32)))
            start += count
        scale = largest * tf.math.divide_no_nan(squares, product)
        return collections.OrderedDict([*symbols, (self.SCALE_KEY, scale[tf.newaxis]), *more])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands  # none; never summed before it is decoded
        size = int(tf.get_static_value(shape)[0])
        parts = [_level(tf.cast(encoded_tensors[key], tf.int32), bits) for key, bits in self.widths()]
        sent = tf.ensure_shape(tf.concat(parts, 0), [sum(self.counts(size))])
        if self._sparse:
            sent = scattered(sent, random_positions(encoded_tensors[self.SEED_KEY], sent.shape[0], size), size)
        return sent * encoded_tensors[self.SCALE_KEY][0]


def _level(index: tf.Tensor, bits: int) -> tf.Tensor:
    levels = gaussian.lloyd_max(bits)
    if bits == 1:
        return (2.0 * tf.cast(index, tf.float32) - 1.0) * levels[1]
    return tf.gather(tf.constant(levels, tf.float32), index)


@te.core.tf_style_encoding_stage
class LloydMaxStage(te.core.EncodingStageInterface):
    """A codebook of 2**bits levels fitted to the tensor; it travels along, float32 [2**bits].

    Alternates level = mean of its cell and boundary = midpoint (Max 1960; Lloyd 1982) on a histogram of `BINS` bins
    between minimum and maximum, from levels at equal shares of the cube root of the density (Panter and Dite 1951,
    optimal for many levels).
    """

    name = "lloyd_max"
    ENCODED_VALUES_KEY = "symbols"
    CODEBOOK_KEY = "codebook"
    BINS = 1 << 14
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = False

    def __init__(self, bits: int, iterations: int):
        self._levels, self._iterations = 2**bits, iterations

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        unit, largest = normalized(x)
        low, high = tf.reduce_min(unit), tf.reduce_max(unit)
        place = tf.cast(tf.math.divide_no_nan(unit - low, high - low) * (self.BINS - 1) + 0.5, tf.int32)
        counts = tf.raw_ops.DenseBincount(input=place, size=self.BINS, weights=tf.constant([], tf.int32))
        # Sums up to each bin, so that a cell's mass and moment are differences; bins are the numbers 0 to BINS - 1.
        counts = tf.cast(counts, tf.float64)
        centres = tf.range(self.BINS, dtype=tf.float64)
        mass, moment = _sums_up_to(counts), _sums_up_to(counts * centres)
        smooth = tf.cast(tf.nn.avg_pool1d(tf.cast(counts, tf.float32)[None, :, None], 65, 1, "SAME"), tf.float64)
        share = tf.cumsum(smooth[0, :, 0] ** (1 / 3))
        wanted = (tf.range(self._levels, dtype=tf.float64) + 0.5) / self._levels * share[-1]
        levels = tf.cast(tf.searchsorted(share, wanted), tf.float64)
        for _ in range(self._iterations):
            edges = _edges(levels, self.BINS)
            inside = tf.gather(mass, edges[1:]) - tf.gather(mass, edges[:-1])
            first = tf.gather(moment, edges[1:]) - tf.gather(moment, edges[:-1])
            levels = tf.where(inside > 0, tf.math.divide_no_nan(first, inside), levels)
        symbol_of_bin = tf.repeat(tf.range(self._levels), tf.experimental.numpy.diff(_edges(levels, self.BINS)))
        codebook = largest * (low + tf.cast(levels / (self.BINS - 1), tf.float32) * (high - low))
        symbols = tf.cast(tf.gather(symbol_of_bin, place), tf.float32)
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, symbols), (self.CODEBOOK_KEY, codebook)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands, shape  # none; never summed before it is decoded
        symbols = tf.cast(encoded_tensors[self.ENCODED_VALUES_KEY], tf.int32)
        return tf.gather(encoded_tensors[self.CODEBOOK_KEY], symbols)


def _sums_up_to(values: tf.Tensor) -> tf.Tensor:
    """[n] to [n + 1]: the sum of the elements before each place."""
    return tf.concat([tf.zeros([1], values.dtype), tf.cumsum(values)], 0)


def _edges(levels: tf.Tensor, bins: int) -> tf.Tensor:
    """int32 [levels + 1]: cell k holds the bins from edge k up to edge k + 1; it ends at the midpoint of two levels."""
    inner = tf.cast(tf.math.ceil((levels[1:] + levels[:-1]) / 2), tf.int32)
    return tf.concat([[0], inner, [bins]], 0)


@te.core.tf_style_encoding_stage
class NormalFloatStage(te.core.EncodingStageInterface):
    """The nearest of 2**bits normal quantiles, times the largest absolute value of the element's block.

    Encodes float32 [n] as symbols [n] and float32 [ceil(n / block)] block scales: bits + 32 / block an element.
    Dettmers et al. 2023, arXiv 2305.14314; the codebook is `gaussian.normal_float`.
    """

    name = "normal_float"
    ENCODED_VALUES_KEY = "symbols"
    SCALES_KEY = "scales"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = True

    def __init__(self, bits: int, block: int):
        self._levels, self._block = gaussian.normal_float(bits), block

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        size = x.shape[0]
        blocks = in_blocks(x, self._block)
        scales = tf.reduce_max(tf.abs(blocks), axis=1)
        unit = tf.reshape(tf.math.divide_no_nan(blocks, scales[:, tf.newaxis]), [-1])[:size]
        symbols = tf.cast(nearest(unit, self._levels), tf.float32)
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, symbols), (self.SCALES_KEY, scales)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands  # none; never summed before it is decoded
        size = int(tf.get_static_value(shape)[0])
        symbols = tf.cast(encoded_tensors[self.ENCODED_VALUES_KEY], tf.int32)
        unit = tf.gather(tf.constant(self._levels, tf.float32), symbols)
        return tf.reshape(in_blocks(unit, self._block) * encoded_tensors[self.SCALES_KEY][:, tf.newaxis], [-1])[:size]
