"""What a stage learns from whoever encodes: a stateless stream of seeds, and facts about the client.

tensor_encoding's own stages draw unseeded noise, and its interface has no place for what differs from client to client.
Here the caller opens a stream around the graph it builds,

    with randomness.stream(seed, Facts(examples, loss)):    # tensors: this client's, this round's, this tensor's
        encoder.encode(x, params)

and a stage draws `next_seed()` inside. Equal seeds give equal noise in every runtime, and two encoders that draw alike
(two widths of one quantizer, say) see the same noise: a paired comparison. Outside a stream, in a program that uses our
stages with TFF directly, a stage draws a fresh seed, as tensor_encoding's own stages do.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Facts:
    """What schedules may use of a client: float32 scalars."""

    examples: tf.Tensor | float = 1.0  # the client's weight, by which its update has been multiplied
    loss: tf.Tensor | float = 0.0  # its mean training loss in this round
    loss_weight: tf.Tensor | float = 1.0  # by which, times `examples`, the loss counts: 0 if it has none


# Of `dither`.
_COLUMNS = 2048
_MIXER = 0x9E3779B1  # odd, so that multiplying is one to one; 2**32 over the golden ratio (Knuth, TAOCP 6.4)
_BOTH_HALVES = 0x00010001

_stream: contextvars.ContextVar[Iterator[tf.Tensor] | None] = contextvars.ContextVar("stream", default=None)
_facts: contextvars.ContextVar[Facts | None] = contextvars.ContextVar("facts", default=None)


def fold_in(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    """A seed (int32 [2]) for the sub-stream `number` of the stream `seed` (int32 [2])."""
    return tf.random.experimental.stateless_fold_in(seed, number)


@contextlib.contextmanager
def stream(seed: tf.Tensor, facts: Facts | None = None) -> Iterator[None]:
    """Within the block, the k-th `next_seed()` is sub-stream k of `seed` (int32 [2]), and `client()` gives `facts`."""
    tokens = _stream.set(fold_in(seed, k) for k in itertools.count()), _facts.set(facts)
    try:
        yield
    finally:
        _stream.reset(tokens[0])
        _facts.reset(tokens[1])


def next_seed() -> tf.Tensor:
    """The next seed (int32 [2]) of the open stream, or a fresh one where no stream is open."""
    current = _stream.get()
    if current is None:
        return tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    return next(current)


def dither(size: int | tf.Tensor, seed: tf.Tensor, bits: int | tf.Tensor) -> tf.Tensor:
    """Noise for stochastic rounding: float32 [size], uniform on the odd multiples of 2**-bits in (0, 1).

    Of one seed, noise of more bits is noise of fewer with more digits: they differ by less than 2**-bits of the fewer.

    In a quarter of a generator's time: each element is half a word, and word (i, j) of a matrix is the exclusive or of
    two random words, one of the row and one of the column. That is simple tabulation (Carter and Wegman 1979): uniform,
    and independent by threes (Patrascu and Thorup, J. ACM 2012), so means, variances and correlations are those of
    independent draws. Four words on the corners of a rectangle would cancel, which a rotation of the same structure can
    feel; so each word is mixed, one to one.

    Args:
      size: the number of elements.
      seed: int32 [2].
      bits: 2 to 16.
    """
    rows = -(-size // (2 * _COLUMNS))
    drawn = tf.random.stateless_uniform([rows + _COLUMNS], seed, minval=None, maxval=None, dtype=tf.uint32)
    words = (drawn[:rows, tf.newaxis] ^ drawn[tf.newaxis, rows:]) * tf.constant(_MIXER, tf.uint32)
    words ^= tf.bitwise.right_shift(words, tf.constant(16, tf.uint32))
    last = tf.cast(2 ** (16 - bits), tf.uint32)  # the lowest bit that stays; it is always set
    words = (words & (2**16 - 2 * last) * _BOTH_HALVES) ^ last * _BOTH_HALVES
    halves = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:size]
    return tf.cast(halves, tf.float32) * 2**-16


def client() -> Facts:
    """Facts about the client that encodes; those of a client with one example where nobody said."""
    return _facts.get() or Facts()
