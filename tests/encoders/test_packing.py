import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_model_optimization.python.core.internal.tensor_encoding.utils import tf_utils

from fedsweep.encoders import packing

LAYOUTS = [(bits, 32) for bits in range(1, 33)] + [(bits, 28) for bits in range(1, 17)]
COUNTS = [0, 1, 6, 7, 8, 31, 32, 33, 1000, 4099]  # below, at and beyond multiples of a word, a group and a block


def values(bits, count):
    """Any `bits` bits as int32; the largest value at both ends, next to the smallest."""
    drawn = np.random.default_rng(bits).integers(0, 2**bits, count, dtype=np.uint32)
    drawn[:2] = drawn[-1:] = 2**bits - 1
    drawn[2:4] = 0
    return tf.constant(drawn.view(np.int32))


@pytest.mark.parametrize("bits, word_bits", LAYOUTS)
def test_unpacking_returns_what_was_packed_in_as_few_words_as_fit(bits, word_bits):
    for count in COUNTS:
        x = values(bits, count)
        packed = packing.pack(x, bits, word_bits)
        assert packed.dtype == tf.int32 and len(packed) == math.ceil(count * bits / word_bits)
        assert np.array_equal(packing.unpack(packed, bits, word_bits, count), x)


@pytest.mark.parametrize("bits", range(1, 17))
def test_28_bit_words_are_those_of_tensor_encoding(bits):
    x = values(bits, 1000)
    assert np.array_equal(packing.pack(x, bits, 28), tf.reshape(tf_utils.pack_into_int(x, bits, 28), [-1]))


@pytest.mark.parametrize("bits, word_bits", [(5, 32), (21, 32), (5, 28)])
def test_sizes_that_are_only_known_when_the_graph_runs_are_packed_too(bits, word_bits):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def there_and_back(x):
        packed = packing.pack(x, bits, word_bits)
        return packed, packing.unpack(packed, bits, word_bits, tf.size(x))

    for count in COUNTS:
        x = values(bits, count)
        packed, unpacked = there_and_back(x)
        assert np.array_equal(packed, packing.pack(x, bits, word_bits)) and np.array_equal(unpacked, x)


@pytest.mark.parametrize("bits, dtype", [(1, tf.float32), (11, tf.float32), (24, tf.float32), (21, tf.int32)])
def test_a_stage_returns_the_type_and_shape_it_was_given(bits, dtype):
    stage = packing.PackingStage(bits, 32, dtype)
    x = tf.cast(tf.reshape(values(bits, 1200), [30, 40]), dtype)
    encoded = stage.encode(x, {})
    assert {name: (t.dtype, t.shape) for name, t in encoded.items()} == {
        "packed_values": (tf.int32, [math.ceil(1200 * bits / 32)])
    }
    decoded = stage.decode(encoded, {}, shape=tf.shape(x))
    assert decoded.dtype == dtype and np.array_equal(decoded, x)
