"""Rotations: they spread a tensor's energy over all elements, so that a quantizer's range is not set by a few of them.

Suresh et al., ICML 2017, arXiv 1611.00429; Konecny et al. 2016, arXiv 1610.05492. A transform is two functions of a
seed; one stage shares the seed among the clients of a round and undoes the rotation once, after the sum, the other
draws one a client, which DRIVE and EDEN need for their errors to average out.
"""

from __future__ import annotations

import collections
import math
from typing import Protocol

import numpy as np
import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import randomness
from fedsweep.encoders.numeric import norm, padded_to


class Transform(Protocol):
    """forward: float32 [d] to [padded(d)]; inverse, which is linear, returns [d]."""

    def padded(self, size: int) -> int: ...
    def forward(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor: ...
    def inverse(self, y: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor: ...


class Hadamard:
    """H D x / sqrt(d2): signs D from the seed, H the Hadamard matrix of size d2, the next power of two."""

    def padded(self, size: int) -> int:
        return 1 << (size - 1).bit_length() if size else 0

    def forward(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return hadamard(padded_to(_with_signs(x, seed), self.padded(x.shape[0])))

    def inverse(self, y: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
        return _with_signs(hadamard(y)[:size], seed)


class Fourier:
    """The discrete Fourier transform of D x, taken as d2/2 complex numbers; d2 is d or d + 1.

    With d2/2 = m * 2^k, m odd, it is the transform over Z_m x Z_256 x Z_256 x ...: as orthogonal and as flattening as
    the one over Z_(d2/2), many times faster, because TensorFlow is fast for powers of two only, and a million times as
    exact, because its float32 transforms lose digits with their length.
    """

    _LONGEST = 8  # the power of two of an axis

    def padded(self, size: int) -> int:
        return size + size % 2

    def forward(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        half = self.padded(x.shape[0]) // 2
        x = padded_to(_with_signs(x, seed), 2 * half)
        y = self._odd_side(tf.complex(x[:half], x[half:]), tf.signal.fft)
        for side in self._sides(half):
            y = tf.reshape(tf.transpose(tf.signal.fft(tf.reshape(y, [-1, side]))), [half])
        y /= math.sqrt(max(half, 1))
        return tf.concat([tf.math.real(y), tf.math.imag(y)], 0)

    def inverse(self, y: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
        half = y.shape[0] // 2
        x = tf.complex(y[:half], y[half:]) * math.sqrt(max(half, 1))
        for side in reversed(self._sides(half)):
            x = tf.reshape(tf.signal.ifft(tf.transpose(tf.reshape(x, [side, -1]))), [half])
        x = self._odd_side(x, tf.signal.ifft)
        return _with_signs(tf.concat([tf.math.real(x), tf.math.imag(x)], 0)[:size], seed)

    def _sides(self, size: int) -> list[int]:
        """The lengths of the axes of the power of two in `size`."""
        power = (size & -size).bit_length() - 1 if size else 0
        axes = math.ceil(power / self._LONGEST)
        return [1 << (power // axes + (k < power % axes)) for k in range(axes)]

    def _odd_side(self, z: tf.Tensor, along_rows) -> tf.Tensor:
        """The transform along the odd part of the size: by its matrix, or, where that is large, in double precision."""
        size = z.shape[0]
        columns = size & -size
        rows = size // columns if size else 0
        if rows <= 1:
            return z
        table = tf.reshape(z, [rows, columns])
        if rows <= 1024:
            mixed = tf.cast(along_rows(tf.eye(rows, dtype=tf.complex128)), tf.complex64) @ table
        else:
            mixed = tf.transpose(tf.cast(along_rows(tf.cast(tf.transpose(table), tf.complex128)), tf.complex64))
        return tf.reshape(mixed, [size])


class Kashin:
    """Coefficients of x in a tight frame of d2 >= d vectors of R^d, none of them much larger than the others.

    The frame is H D S / sqrt(d2): S puts the d elements, in blocks, at scattered indices of d2, the next power of two;
    signs D from the seed; H the Hadamard matrix. Each iteration takes what is left of x, clips its coefficients at
    `level`, keeps those, and goes on with what they miss; the last one keeps all. The inverse, S^T D H y / sqrt(d2), is
    linear. Lyubarskii and Vershynin 2010, arXiv math/0611343; Caldas et al. 2018, arXiv 1812.07210.

    The frame is as large as Hadamard's padded tensor: what padding leaves is the room for flattening. A frame of twice
    that size has half the bits per coefficient at equal sent bits, which costs far more than flat coefficients gain: at
    d = 65,536 and 8 bits per element a squared error of about 0.01 with 4 bits per coefficient instead of 0.00019. So
    at d = 2^k this is Hadamard's rotation, bit for bit. Most is gained just above: at d = 33,000 the largest
    coefficient falls from 4.2 to 2.7 times norm2(x) / sqrt(d2), at 3,500 (of 4,096) from 3.6 to 3.3.

    The elements must be scattered. Where d is just above d2 / 2, the rows of the first d columns of H are nearly the
    same d2 / 2 vectors twice, and clipping changes nothing (4.1 instead of 2.7). From `CROWDED` d2 on the first columns
    are as good as scattered ones, and the plain coefficients are Hadamard's own. Below it whole blocks of about
    sqrt(d2) consecutive elements are scattered, because H alone makes some tensors flat: those of a few elements other
    than 0, in one stretch (rows of a matrix, of an embedding) or at one distance (a channel). Scattered one by one,
    such elements gave up to 2.15 times Hadamard's squared error; in blocks, 1.02 at most was measured (mean of 4, d
    from 2,300 to 51,200), which is within chance. That is the mean: for a single draw a tensor of a few elements
    can come out worse than with Hadamard's frame.

    Constants: the theorem's level is K = 1 / ((1 - ETA) sqrt(DELTA)), no coefficient above K norm2(x) / sqrt(d2), where
    DELTA d2 frame vectors are bounded by ETA. These values, K = 10, are those of tensor_encoding's research stage. Of
    54 pairs tried on random frames (d / d2 from 0.504 to 0.99, d2 = 8,192) none is flatter by more than 3 % with 3
    iterations; 6 iterations are by 1 to 22 %, for twice the time. Clipping can widen the range where it has little
    room, so the flatter of the clipped and the plain coefficients is sent: both are x in the same frame.
    """

    ITERATIONS, ETA, DELTA, CROWDED = 3, 0.9, 1.0, 3 / 4

    def padded(self, size: int) -> int:
        return Hadamard().padded(size)

    def forward(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        size = x.shape[0]
        frame, origin = self.padded(size), self._origin(size)
        left = tf.gather(padded_to(_with_signs(x, seed), frame), origin)
        plain = coefficients = hadamard(left)
        if frame == size:
            return plain
        total, level = tf.zeros([frame]), norm(left) / math.sqrt(self.DELTA * frame)
        for _ in range(self.ITERATIONS - 1):
            clipped = tf.clip_by_value(coefficients, -level, level)
            left -= tf.where(origin < size, hadamard(clipped), 0.0)
            total, level = total + clipped, level * self.ETA
            coefficients = hadamard(left)
        total += coefficients  # nothing of x is lost
        return tf.where(_range(total) < _range(plain), total, plain)

    def inverse(self, y: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
        gathered = tf.math.unsorted_segment_sum(hadamard(y), self._origin(size), y.shape[0])
        return _with_signs(gathered[:size], seed)

    def _origin(self, size: int) -> tf.Tensor:
        """S^T, int32 [d2]: the index of the (padded) element that each index of the frame's space holds."""
        frame = self.padded(size)
        if size >= self.CROWDED * frame:
            return tf.range(frame)
        power = frame.bit_length() - 1
        block = 1 << min(power // 2, max(power - 4, 0))  # fewer than 16 blocks cannot be scattered
        return tf.reshape(_scattered(frame // block)[:, None] * block + tf.range(block), [frame])


def _range(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(x) - tf.reduce_min(x)


def _scattered(size: int) -> tf.Tensor:
    """A fixed permutation of range(size), int32 [size], that looks random to Hadamard matrices; size a power of two.

    Each round is one to one: a multiplication by an odd number (MurmurHash3's) modulo size, then the upper bits onto
    the lower ones. The largest inner product of two vectors of Kashin's frame is at most 1.22 times what random indices
    give (d from 9 to 65,537; with 3 rounds 1.7).
    """
    bits = size.bit_length() - 1
    index = tf.cast(tf.range(size), tf.uint32)
    for _ in range(4):
        index = index * tf.constant(0xC2B2AE35, tf.uint32) & tf.constant(size - 1, tf.uint32)
        index ^= tf.bitwise.right_shift(index, tf.constant((bits + 1) // 2, tf.uint32))
    return tf.cast(index, tf.int32)


TRANSFORMS: dict[str, Transform] = {"hadamard": Hadamard(), "fourier": Fourier(), "kashin": Kashin()}


def hadamard(x: tf.Tensor) -> tf.Tensor:
    """H x / sqrt(n) of float32 [n], n a power of two (or 0): its own inverse.

    By Kronecker factors of at most 64, one small matrix product each: five times as fast as a pass for every factor 2.
    """
    size = x.shape[0]
    power = max(size, 1).bit_length() - 1
    factors = max(1, math.ceil(power / 6))
    for k in range(factors):
        side = 1 << (power // factors + (k < power % factors))
        # Rows times the symmetric matrix; the transposed result puts the next factor's elements side by side.
        x = tf.matmul(_sylvester(side), tf.reshape(x, [-1, side]), transpose_b=True)
    return tf.reshape(x, [size])


def _sylvester(side: int) -> tf.Tensor:
    """The Hadamard matrix of a power of two, divided by the root of its size."""
    matrix = np.ones([1, 1], np.float32)
    while len(matrix) < side:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return tf.constant(matrix / math.sqrt(side), tf.float32)


def _with_signs(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """x, float32 [n], each element with its sign kept or flipped, a random bit each."""
    size = x.shape[0]
    words = tf.random.stateless_uniform([math.ceil(size / 32)], seed, minval=None, maxval=None, dtype=tf.int32)
    flips = tf.concat([tf.bitwise.left_shift(words, bit) for bit in range(32)], 0)[:size]
    sign = tf.constant(-(2**31), tf.int32)
    return tf.bitcast(tf.bitwise.bitwise_xor(tf.bitcast(x, tf.int32), tf.bitwise.bitwise_and(flips, sign)), tf.float32)


@te.core.tf_style_encoding_stage
class SharedRotationStage(te.core.EncodingStageInterface):
    """One rotation for all clients of a round, undone once, after the sum.

    Encodes float32 [d] as float32 [d2]. The seed is the server's: int32 [2], 64 bits a tensor on the downlink.
    """

    name = "rotation"
    ENCODED_VALUES_KEY = "rotated_values"
    SEED_KEY = "seed"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = True
    decode_needs_input_shape = True

    def __init__(self, transform: Transform):
        self._transform = transform

    def get_params(self):
        params = collections.OrderedDict([(self.SEED_KEY, randomness.next_seed())])
        return params, params

    def encode(self, x, encode_params):
        rotated = self._transform.forward(x, encode_params[self.SEED_KEY])
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, rotated)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del num_summands  # the inverse is linear
        size = int(tf.get_static_value(shape)[0])
        return self._transform.inverse(encoded_tensors[self.ENCODED_VALUES_KEY], decode_params[self.SEED_KEY], size)


@te.core.tf_style_encoding_stage
class OwnRotationStage(te.core.EncodingStageInterface):
    """A rotation of its own for every client and tensor; its seed travels with the message: int32 [2], 64 bits.

    Encodes float32 [d] as float32 [d2].
    """

    name = "own_rotation"
    ENCODED_VALUES_KEY = "rotated_values"
    SEED_KEY = "seed"
    compressible_tensors_keys = (ENCODED_VALUES_KEY,)
    commutes_with_sum = False
    decode_needs_input_shape = True

    def __init__(self, transform: Transform):
        self._transform = transform

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        seed = randomness.next_seed()
        rotated = self._transform.forward(x, seed)
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, rotated), (self.SEED_KEY, seed)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands  # none; decoded before the sum
        size = int(tf.get_static_value(shape)[0])
        rotated, seed = encoded_tensors[self.ENCODED_VALUES_KEY], encoded_tensors[self.SEED_KEY]
        return self._transform.inverse(rotated, seed, size)
