import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.runtime import wire


def struct(**parts):
    return tff.StructType(list(parts.items()))


MESSAGE = tff.StructType(
    [
        (
            None,
            struct(
                update=struct(a=tff.TensorType(np.int32, [3]), b=np.float32), weight=np.float32, update_state=np.int64
            ),
        ),
        (None, struct(metrics=struct(loss=np.float32, examples=np.float64))),
    ]
)


def test_every_tensor_is_of_one_kind_and_what_encoders_add_counts_as_update():
    assert wire.kinds_of_uplink(MESSAGE) == ["update", "update", "weight", "update", "metrics", "metrics"]


def test_a_tensor_that_the_meter_does_not_know_is_refused():
    with pytest.raises(ValueError, match="surprise"):
        wire.kinds_of_uplink(struct(surprise=np.float32))


def test_bits_are_elements_times_the_size_of_one():
    tensors = [tf.zeros([3], tf.int32), tf.zeros([]), tf.zeros([2, 5], tf.int8), tf.zeros([0]), tf.zeros([4], tf.bool)]
    assert wire.bits_of_tensors(tensors) == [96, 32, 80, 0, 32]
    assert wire.bits_of_type(MESSAGE) == [96, 32, 32, 64, 32, 64]
    assert wire.by_kind(["a", "b", "a"], [1, 2, 4]) == {"a": 5, "b": 2}


def test_a_size_that_the_type_does_not_fix_is_refused():
    with pytest.raises(ValueError, match="runtime=map_reduce"):
        wire.bits_of_type(tff.to_type(collections.OrderedDict(update=tff.TensorType(np.int32, [None]))))
