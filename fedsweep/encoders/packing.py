"""Packing of integers of b bits, 1 to 32, into 32-bit words, in one of two layouts.

`tensor_encoding` fills 28 bits of a word (its words were once written as varints): n values take ceil(n * b / 28)
words, in its bit order. `dense` fills all 32, ceil(n * b / 32) words, in an order chosen for speed: TensorFlow is quick
with long contiguous tensors and slow with strides and transposes, so whole stretches of the vector are laid over one
another. Only the last n % BLOCK values are chained one after the other, as in the first layout.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

WORD_BITS = {"tensor_encoding": 28, "dense": 32}
BLOCK = 512  # lanes of a multiple of this many values begin at multiples of 64 bytes: slices of them are not copied


def pack(values: tf.Tensor, bits: int, word_bits: int) -> tf.Tensor:
    """Packs integers into words that carry `word_bits` bits; for 28, those of tensor_encoding's `pack_into_int`.

    Args:
      values: int32 or float32 [n], integers in [0, 2**bits); a larger one would spill into its neighbour. 32 bits are
        any int32. float32 holds no more than 24 bits.
      bits: 1 to 32; 1 to 28 where word_bits is 28.
      word_bits: 28 or 32.

    Returns:
      int32 [ceil(n * bits / word_bits)].
    """
    laid, chained = _split(tf.size(values), word_bits)
    parts = []
    if tf.get_static_value(laid) != 0:
        parts.append(_lay(values[:laid], bits))
    if tf.get_static_value(chained) != 0 or not parts:
        parts.append(_chain(values[laid:], bits, word_bits))
    return tf.bitcast(tf.concat(parts, 0), tf.int32)


def unpack(
    packed: tf.Tensor, bits: int, word_bits: int, count: int | tf.Tensor, dtype: tf.DType = tf.int32
) -> tf.Tensor:
    """The inverse of `pack`: int32 words [ceil(count * bits / word_bits)] to values [count], int32 or float32."""
    laid, chained = _split(count, word_bits)
    border = laid // 32 * bits
    packed = tf.bitcast(packed, tf.uint32)
    parts = []
    if tf.get_static_value(laid) != 0:
        parts.append(tf.cast(_lift(packed[:border], bits), dtype))
    if tf.get_static_value(chained) != 0 or not parts:
        parts.append(tf.cast(_unchain(packed[border:], bits, word_bits, chained), dtype))
    return tf.concat(parts, 0)


def _split(count: int | tf.Tensor, word_bits: int) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """How many values are laid over one another and how many chained; int where that is known ahead of the run."""
    static = tf.get_static_value(count)
    count = count if static is None else int(static)
    laid = count // BLOCK * BLOCK if word_bits == 32 else 0
    return laid, count - laid


# Values laid over one another. Each has a field of w bits, w the power of two from b up. Out of w lanes of fields, b
# stay where they are: the planes, which are sent. The other w - b, the donors, are cut into pieces that fill the w - b
# bits left free at the top of the planes' fields. (With a common divisor of b and w, so many times fewer of each.)
#
# All fields of a word are masked and shifted at once, by the operations TensorFlow has quick kernels for: *, + and ^
# are always vectorized; &, | and shifts only where the result does not overwrite an operand, else they take three to
# five times as long. So & is applied to slices, ^ joins, and * shifts to the left.


def _lay(values: tf.Tensor, bits: int) -> tf.Tensor:
    """Values [n], n a multiple of BLOCK, to uint32 [n * bits / 32]."""
    container, width = _container(bits), 8 * _container(bits).size
    words = _viewed(tf.cast(values, container), tf.uint32)
    while width > _field(bits):  # one byte for two nibbles, and so on
        width //= 2
        low, high = _lanes(words, 2)
        words = low ^ _left(high, width)

    planes, donors = _planes_and_donors(bits)
    lanes = _lanes(words, planes + donors)
    for piece in _pieces(bits):
        lifted = lanes[planes + piece.donor] & _mask(piece.source, piece.length, width)
        lanes[piece.plane] ^= _left(lifted, bits + piece.target - piece.source)
    return tf.concat(lanes[:planes], 0)


def _lift(words: tf.Tensor, bits: int) -> tf.Tensor:
    """The inverse of `_lay`: values [n] in the narrowest container."""
    container, width = _container(bits), _field(bits)
    planes, donors = _planes_and_donors(bits)
    if donors:
        lanes = [words & _mask(0, bits, width)] + [0] * donors
        tops = _lanes(_right(words, bits), planes)
        for piece in _pieces(bits):
            part = _left(tops[piece.plane] & _mask(piece.target, piece.length, width), piece.source - piece.target)
            lanes[1 + piece.donor] = part if piece.source == 0 else lanes[1 + piece.donor] ^ part
        words = tf.concat(lanes, 0)

    while width < 8 * container.size:
        mask = _mask(0, width, 2 * width)
        words = tf.concat([words & mask, _right(words, width) & mask], 0)
        width *= 2
    return _viewed(words, container)


class _Piece(NamedTuple):
    plane: int
    target: int  # its lowest bit, counted from the lowest free bit of the plane's fields
    donor: int
    source: int  # its lowest bit in the donor's fields
    length: int


def _pieces(bits: int) -> Iterator[_Piece]:
    """Cuts the donors, laid end to end, where one of them ends or a plane is full.

    Planes are filled from the top down, so that target <= source: pieces only ever move to the left, there and back.
    """
    planes, _ = _planes_and_donors(bits)
    free, position = _field(bits) - bits, 0
    while position < planes * free:
        (plane, filled), (donor, source) = divmod(position, free), divmod(position, bits)
        length = min(free - filled, bits - source)
        yield _Piece(plane, free - filled - length, donor, source, length)
        position += length


def _planes_and_donors(bits: int) -> tuple[int, int]:
    lanes = _field(bits) // math.gcd(bits, _field(bits))
    planes = bits // math.gcd(bits, _field(bits))
    return planes, lanes - planes


def _field(bits: int) -> int:
    return 1 << (bits - 1).bit_length()


def _container(bits: int) -> tf.DType:
    return tf.uint8 if bits <= 8 else tf.uint16 if bits <= 16 else tf.int32


def _viewed(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The same bytes as a vector of another type; sizes that do not match are grouped or come apart."""
    if x.dtype.size < dtype.size:
        x = tf.reshape(x, [-1, dtype.size // x.dtype.size])
    return tf.reshape(tf.bitcast(x, dtype), [-1])


def _lanes(words: tf.Tensor, count: int) -> list[tf.Tensor]:
    return tf.unstack(tf.reshape(words, [count, tf.size(words) // count]))


def _mask(first: int, length: int, width: int) -> tf.Tensor:
    """Ones in `length` bits from `first` up, in each field of `width` bits of a word."""
    return tf.constant(sum((2**length - 1) << start + first for start in range(0, 32, width)), tf.uint32)


def _left(x: tf.Tensor, shift: int) -> tf.Tensor:
    return x * tf.constant(2**shift, tf.uint32) if shift else x


def _right(x: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32))


# Values chained one after the other, lowest bits first: tensor_encoding's order. Chaining moves each element by itself,
# so as many neighbours as 32 bits hold are merged into one element before, whole words at a time.


def _chain(values: tf.Tensor, bits: int, word_bits: int) -> tf.Tensor:
    """Concatenates the low `bits` bits of each value: [n] to uint32 [ceil(n * bits / word_bits)]."""
    count, merged = tf.size(values), _merges(bits)
    elements = _merge(tf.pad(values, [[0, -count % merged]]), bits)
    # A group is the shortest run of elements that ends where a word ends: its words are sums of shifted columns.
    in_group, words = _group(merged * bits, word_bits)
    columns = _columns(elements, in_group)
    mask = tf.constant(2**word_bits - 1, tf.uint32)

    packed = []
    for word in range(words):
        start = word * word_bits
        first, last = start // (merged * bits), (start + word_bits - 1) // (merged * bits)
        parts = [_shifted(columns[i], i * merged * bits - start) for i in range(first, last + 1)]
        # The last element of a word may reach beyond it; the rest of its bits open the next word.
        parts[-1] = tf.bitwise.bitwise_and(parts[-1], mask)
        packed.append(_joined(parts))
    return _interleaved(packed)[: (count * bits + word_bits - 1) // word_bits]


def _unchain(packed: tf.Tensor, bits: int, word_bits: int, count: int | tf.Tensor) -> tf.Tensor:
    """The inverse of `_chain`: uint32 words to [count] in the narrowest container."""
    width = _merges(bits) * bits
    in_group, words = _group(width, word_bits)
    columns = _columns(packed, words)
    mask = tf.constant(2**width - 1, tf.uint32)

    elements = []
    for i in range(in_group):
        first, last = i * width // word_bits, ((i + 1) * width - 1) // word_bits
        parts = [_shifted(columns[word], word * word_bits - i * width) for word in range(first, last + 1)]
        elements.append(tf.bitwise.bitwise_and(_joined(parts), mask))
    return _unmerge(_interleaved(elements), bits)[:count]


def _merges(bits: int) -> int:
    """The largest power of two of values that 32 bits hold."""
    return 1 << (32 // bits).bit_length() - 1


def _merge(values: tf.Tensor, bits: int) -> tf.Tensor:
    """Values [n], n a multiple of m = `_merges(bits)`, to uint32 [n / m] of m * bits bits, the first value lowest."""
    container = _container(bits)
    words, width = _viewed(tf.cast(values, container), tf.uint32), 8 * container.size
    if width == 32:
        return words
    while width < 32:  # both fields of a pair next to one another
        if bits < width:
            words -= _upper(words, width, width) * tf.constant(2**width - 2**bits, tf.uint32)
        width, bits = 2 * width, 2 * bits
    return _merge(words, bits)


def _unmerge(words: tf.Tensor, bits: int) -> tf.Tensor:
    """The inverse of `_merge`: values [n] in the narrowest container."""
    container, width = _container(bits), 32
    in_word = width // (8 * container.size)
    if in_word > 1:
        words, bits = tf.cast(_unmerge(words, in_word * bits), tf.uint32), in_word * bits
    while width > 8 * container.size:
        width, bits = width // 2, bits // 2
        if bits < width:
            words += _upper(words, bits, width) * tf.constant(2**width - 2**bits, tf.uint32)
    return _viewed(words, container)


def _upper(words: tf.Tensor, bits: int, width: int) -> tf.Tensor:
    """The upper of two neighbours, which begins at bit `bits`, in each pair of fields of `width` bits."""
    upper = _right(words, bits)
    return upper if 2 * width == 32 else upper & _mask(0, bits, 2 * width)


def _group(bits: int, word_bits: int) -> tuple[int, int]:
    """(values, words) in the shortest run that begins and ends on both borders."""
    length = math.lcm(bits, word_bits)
    return length // bits, length // word_bits


def _columns(values: tf.Tensor, width: int) -> list[tf.Tensor]:
    """[n], filled up with zeros, as `width` tensors [ceil(n / width)]: every width-th element from each of the first.

    (A transpose is quicker than slices along axis 1, here and below.)
    """
    rows = tf.reshape(tf.pad(values, [[0, -tf.size(values) % width]]), [-1, width])
    return tf.unstack(_transposed(rows))


def _interleaved(columns: list[tf.Tensor]) -> tf.Tensor:
    """The inverse: [n] each, as one [n * len(columns)], element by element."""
    return tf.reshape(_transposed(tf.stack(columns)), [-1])


def _transposed(words: tf.Tensor) -> tf.Tensor:
    """uint32 [n, m] to [m, n]; as floats, which take half the time and keep their bits."""
    return tf.bitcast(tf.transpose(tf.bitcast(words, tf.float32)), tf.uint32)


def _shifted(x: tf.Tensor, left: int) -> tf.Tensor:
    """x shifted to the left, or to the right where `left` is negative."""
    return _left(x, left) if left >= 0 else _right(x, -left)


def _joined(parts: list[tf.Tensor]) -> tf.Tensor:
    """Parts that have no bit in common, in one."""
    return functools.reduce(tf.bitwise.bitwise_xor, parts)


@te.core.tf_style_encoding_stage
class PackingStage(te.core.EncodingStageInterface):
    """Integers to packed words; lossless.

    Encodes integers in [0, 2**bits), of `dtype` float32 or int32 and any shape, as int32 [ceil(n * bits / word_bits)]:
    32 bits a word. float32 holds integers of up to 24 bits.
    """

    name = "packing"
    compressible_tensors_keys = ()
    commutes_with_sum = False
    decode_needs_input_shape = True
    ENCODED_VALUES_KEY = "packed_values"

    def __init__(self, bits: int, word_bits: int, dtype: tf.DType = tf.float32):
        self._bits, self._word_bits, self._dtype = bits, word_bits, dtype

    def get_params(self):
        return collections.OrderedDict(), collections.OrderedDict()

    def encode(self, x, encode_params):
        del encode_params  # none
        packed = pack(tf.reshape(x, [-1]), self._bits, self._word_bits)
        return collections.OrderedDict([(self.ENCODED_VALUES_KEY, packed)])

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        del decode_params, num_summands  # none
        static = tf.get_static_value(shape)
        count = tf.reduce_prod(shape) if static is None else math.prod(static)
        packed = encoded_tensors[self.ENCODED_VALUES_KEY]
        return tf.reshape(unpack(packed, self._bits, self._word_bits, count, self._dtype), shape)
