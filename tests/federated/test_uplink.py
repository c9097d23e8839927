"""The aggregation by itself, with an encoder that keeps state at the server, as somebody might write one for TFF."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep import encoders
from fedsweep.federated.uplink import EncodedMeanFactory

WEIGHT = tff.to_type(
    collections.OrderedDict(examples=np.float32, noise_seed=tff.TensorType(np.int32, [2]), loss=np.float32)
)


@te.core.tf_style_adaptive_encoding_stage
class ScaledByLargest(te.core.AdaptiveEncodingStageInterface):
    """Sends x / scale; scale is the largest absolute value that the clients of the last round saw (-5 at first)."""

    name = "scaled_by_largest"
    compressible_tensors_keys = ()
    commutes_with_sum = True
    decode_needs_input_shape = False
    state_update_aggregation_modes = collections.OrderedDict(  # noqa: RUF012
        largest=te.core.StateAggregationMode.MAX, smallest=te.core.StateAggregationMode.MIN
    )

    def initial_state(self):
        return collections.OrderedDict(scale=tf.constant(-5.0), smallest=tf.constant(0.0))

    def update_state(self, state, state_update_tensors):
        return collections.OrderedDict(scale=state_update_tensors["largest"], smallest=state_update_tensors["smallest"])

    def get_params(self, state):
        params = collections.OrderedDict(scale=state["scale"])
        return params, params

    def encode(self, x, encode_params):
        update = collections.OrderedDict(largest=tf.reduce_max(x), smallest=tf.reduce_min(x))
        return collections.OrderedDict(values=x / encode_params["scale"]), update

    def decode(self, encoded_tensors, decode_params, num_summands=None, shape=None):
        return encoded_tensors["values"] * decode_params["scale"]


@pytest.mark.parametrize("overrides", ["encoder=eden encoder.bits=1.5", "encoder=hadamard", "schedule=falling_loss"])
def test_our_encoders_work_in_tffs_own_factory(config, overrides):
    """tff.aggregators.EncodedSumFactory knows nothing of our streams and facts: fresh noise, a client of weight 1."""
    rule = encoders.uplink(config(*overrides.split(), "encoder.threshold=0"))
    factory = tff.aggregators.EncodedSumFactory(
        lambda spec: te.encoders.as_gather_encoder(rule(tf.TensorSpec(spec.shape, spec.dtype))[1], spec)
    )
    process = factory.create(tff.to_type(tff.TensorType(np.float32, [600])))
    x = np.random.default_rng(0).normal(size=(3, 600)).astype(np.float32)
    context = tff.backends.test.create_sync_test_cpp_execution_context()
    with tff.framework.get_context_stack().install(context):
        output = process.next(process.initialize(), list(x))
    assert np.sum((output.result - x.sum(0)) ** 2) < 0.5 * np.sum(x**2)


def test_adaptive_encoders_keep_their_state_between_rounds():
    """Also: minima and maxima over clients do not start from zero."""

    def rule(spec):
        return "scaled", te.core.EncoderComposer(ScaledByLargest()).make()

    value_type = tff.to_type((tff.TensorType(np.float32, [2]),))
    process = EncodedMeanFactory(rule, seed=0).create(value_type, WEIGHT)

    @tff.federated_computation(
        process.initialize.type_signature.result,
        tff.FederatedType(value_type, tff.CLIENTS),
        tff.FederatedType(WEIGHT, tff.CLIENTS),
    )
    def next_round(state, values, weights):
        output = process.next(state, values, weights)
        return output.state, output.result

    context = tff.backends.test.create_sync_test_cpp_execution_context()
    with tff.framework.get_context_stack().install(context):
        state = process.initialize()
        for values in ([[-4.0, -2.0], [-8.0, -1.0]], [[3.0, 6.0], [5.0, 4.0]]):
            data = [(np.array(v, np.float32),) for v in values]
            weights = [
                collections.OrderedDict(examples=np.float32(n), noise_seed=np.zeros(2, np.int32), loss=np.float32(1))
                for n in (1, 3)
            ]
            state, (mean,) = next_round(state, data, weights)
            np.testing.assert_allclose(mean, (np.array(values[0]) + 3 * np.array(values[1])) / 4, rtol=1e-6)
            products = np.array([values[0], 3 * np.array(values[1])])
            largest, smallest = (float(v) for v in state["encoders"][0])
            assert {largest, smallest} == {products.max(), products.min()}
