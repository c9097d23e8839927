"""What a message says about itself: its tensors' bits, those of its lossless codes, the widths its schedules chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from fedsweep.encoders.codes.code import floor_log2
from fedsweep.encoders.codes.stage import LENGTH, SYMBOLS
from fedsweep.encoders.levels import ScheduledLevelsStage

EncodedTensor = Mapping[str, tf.Tensor]  # te's name of a part -> the part


def plain_bits(structure) -> int:
    """Bits of all tensors in it as they are, from their shapes alone: `tf.size` would make a tensor for each."""
    return sum(t.shape.num_elements() * t.dtype.size * 8 for t in tf.nest.flatten(structure))


def bits(message: Sequence[EncodedTensor]) -> tf.Tensor:
    """int64: bits of all lossless codes in it; 0 where there are none."""
    lengths = [tensor for part in message for key, tensor in part.items() if _last(key).startswith(LENGTH)]
    return tf.add_n([tf.cast(length, tf.int64) for length in lengths]) if lengths else tf.constant(0, tf.int64)


def width(message: Sequence[EncodedTensor], sizes: Sequence[int]) -> tf.Tensor:
    """float32: mean bits an element over all tensors that follow a schedule, ceil(log2(levels + 1)); 0 without any."""
    found = [
        (tensor, size)
        for part, size in zip(message, sizes, strict=True)
        for key, tensor in part.items()
        if _last(key) == ScheduledLevelsStage.LEVELS_KEY
    ]
    if not found:
        return tf.constant(0.0)
    total = sum(size for _, size in found)
    return tf.add_n([tf.cast(floor_log2(levels) + 1, tf.float32) * (size / total) for levels, size in found])


def is_symbols(key: str) -> bool:
    """Whether a part of an encoded tensor holds symbols of a lossless code, which are not sent: its bytes are."""
    return _last(key).startswith(SYMBOLS)


def _last(key: str) -> str:
    return key.split("/")[-1]
