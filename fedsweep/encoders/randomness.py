"""Where encoding stages take their randomness from: a stateless stream opened by whoever encodes.

tensor_encoding's own stages draw unseeded noise, and its interface has no place for a seed that differs from client to
client. Here the caller opens a stream around the graph it builds,

    with randomness.stream(seed):          # a tensor: this client's, this round's, this tensor's
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

import tensorflow as tf

_stream: contextvars.ContextVar[Iterator[tf.Tensor] | None] = contextvars.ContextVar("stream", default=None)


def fold_in(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    """A seed (int32 [2]) for the sub-stream `number` of the stream `seed` (int32 [2])."""
    return tf.random.experimental.stateless_fold_in(seed, number)


@contextlib.contextmanager
def stream(seed: tf.Tensor) -> Iterator[None]:
    """Within the block, the k-th `next_seed()` is sub-stream k of `seed` (int32 [2])."""
    token = _stream.set(fold_in(seed, k) for k in itertools.count())
    try:
        yield
    finally:
        _stream.reset(token)


def next_seed() -> tf.Tensor:
    """The next seed (int32 [2]) of the open stream, or a fresh one where no stream is open."""
    current = _stream.get()
    if current is None:
        return tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    return next(current)
