import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.encoders.codes import CODES
from fedsweep.runtime.wire import UPLINK_KINDS, Meter


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
        (None, struct(metrics=struct(loss=np.float32, examples=np.float64), memory=tff.TensorType(np.float32, [50]))),
    ]
)
CODED = tff.to_type(
    collections.OrderedDict(
        update=tuple(
            collections.OrderedDict(
                [("x/coded_bits.huffman", np.int32), ("x/coded_symbols.huffman", tff.TensorType(np.int32, [n]))]
            )
            for n in (100, 100)
        )
    )
)


def test_bits_are_elements_times_the_size_of_one_by_kind_and_what_stays_at_a_client_is_none():
    """What encoders add to the update counts as update."""
    meter = Meter(MESSAGE, UPLINK_KINDS)
    tensors = [tf.zeros([3], tf.int32), tf.zeros([2, 5], tf.int8), tf.zeros([]), tf.zeros([4], tf.bool), tf.zeros([0])]
    message = [*tensors, tf.zeros([], tf.float64), tf.zeros([50])]
    assert meter.bits(message) == {"update": 96 + 80 + 32, "weight": 32, "metrics": 0 + 64}
    assert meter.fixed_bits() == {"update": 96 + 32 + 64, "weight": 32, "metrics": 32 + 64}
    assert meter.parts(message, "memory") == message[-1:]


def test_a_tensor_that_the_meter_does_not_know_is_refused():
    with pytest.raises(ValueError, match="surprise"):
        Meter(struct(surprise=np.float32), UPLINK_KINDS)


def test_a_size_that_the_type_does_not_fix_is_refused():
    meter = Meter(tff.to_type(collections.OrderedDict(update=tff.TensorType(np.int32, [None]))), UPLINK_KINDS)
    with pytest.raises(ValueError, match="map_reduce"):
        meter.fixed_bits()


def coded_message():
    """Two tensors with equal names and different symbols, as the update of two layers has them."""
    symbols = [tf.constant(np.random.default_rng(k).integers(0, 9, 100), tf.int32) for k in (1, 2)]
    return [tensor for x in symbols for tensor in (CODES["huffman"].bits(x), x)]


def test_behind_a_lossless_code_its_bytes_are_charged_and_not_the_symbols():
    message, meter = coded_message(), Meter(CODED, UPLINK_KINDS)
    sent = sum(8 * len(CODES["huffman"].encode(symbols.numpy())) for symbols in message[1::2])
    assert meter.bits(message) == {"update": sent + 2 * 32}  # and their number
    assert meter.fixed_bits() == {"update": 2 * 32}
    meter.verify(message)


def test_a_wrong_charge_is_found_when_the_bytes_are_made():
    message = coded_message()
    with pytest.raises(RuntimeError, match=r"huffman: \d+ bits were sent and \d+ charged"):
        Meter(CODED, UPLINK_KINDS).verify([message[0] + 8, *message[1:]])


def test_a_code_that_loses_something_is_found(monkeypatch):
    monkeypatch.setattr(type(CODES["huffman"]), "decode", lambda self, data, count: np.zeros(count, np.int32))
    with pytest.raises(RuntimeError, match="huffman: what was decoded is not what was sent"):
        Meter(CODED, UPLINK_KINDS).verify(coded_message())
