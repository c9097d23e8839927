import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_model_optimization.python.core.internal.tensor_encoding.utils import tf_utils

from fedsweep.encoders import packing

WIDTHS = range(1, 17)
COUNTS = [0, 1, 6, 7, 8, 31, 32, 33, 1000]


def values(bits, count):
    drawn = np.random.default_rng(bits).integers(0, 2**bits, count, dtype=np.int32)
    drawn[: min(count, 2)] = 2**bits - 1  # the largest value, in the first two places
    return tf.constant(drawn)


@pytest.mark.parametrize("word_bits", packing.WORD_BITS.values())
@pytest.mark.parametrize("bits", WIDTHS)
def test_unpacking_returns_what_was_packed_in_as_few_words_as_fit(bits, word_bits):
    for count in COUNTS:
        x = values(bits, count)
        packed = packing.pack(x, bits, word_bits)
        assert packed.dtype == tf.int32 and len(packed) == math.ceil(count * bits / word_bits)
        assert np.array_equal(packing.unpack(packed, bits, word_bits, count), x)


@pytest.mark.parametrize("bits", WIDTHS)
def test_28_bit_words_are_those_of_tensor_encoding(bits):
    x = values(bits, 1000)
    assert np.array_equal(packing.pack(x, bits, 28), tf.reshape(tf_utils.pack_into_int(x, bits, 28), [-1]))


def test_sizes_that_are_only_known_when_the_graph_runs_are_packed_too():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def there_and_back(x):
        return packing.unpack(packing.pack(x, 5, 32), 5, 32, tf.size(x))

    assert np.array_equal(there_and_back(values(5, 77)), values(5, 77))
