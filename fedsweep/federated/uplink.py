"""Uplink: the weighted mean of client updates, each encoded before it is sent.

As `tff.aggregators.MeanFactory(EncodedSumFactory(...))` does, a client multiplies its update by its weight and encodes
the product; the server decodes, sums, and divides by the sum of the weights. What is added to TFF's own factory is that
the encoders' randomness comes from seeds: the server's (rotations, shared by the clients of a round) from the process
state, a client's (rounding) from the client itself.
"""

from __future__ import annotations

import collections

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import EncoderRule, randomness

# How tensors that update an adaptive encoder's state are combined, and the value that changes nothing.
_COMBINE = {
    te.core.StateAggregationMode.SUM: (tf.add, lambda dtype: 0),
    te.core.StateAggregationMode.MIN: (tf.minimum, lambda dtype: dtype.max),
    te.core.StateAggregationMode.MAX: (tf.maximum, lambda dtype: dtype.min),
}


class EncodedMeanFactory(tff.aggregators.WeightedAggregationFactory):
    """Weighted mean of a tuple of tensors through one gather encoder per tensor.

    What a client sends is an OrderedDict with `update` (the encoded tensors), `weight` (its number of examples,
    float32) and, for adaptive encoders, what their state needs.
    """

    def __init__(self, rule: EncoderRule, seed: int):
        """`rule` chooses an encoder per tensor; `seed` starts the server's stream of rotation seeds."""
        self._rule, self._seed = rule, seed

    def create(self, value_type: tff.Type, weight_type: tff.Type) -> tff.templates.AggregationProcess:
        """`value_type`: a tuple of float32 tensors; `weight_type`: <examples=float32, noise_seed=int32[2]>."""
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in value_type]
        encoders = [te.encoders.as_gather_encoder(self._rule(spec)[1], spec) for spec in specs]
        modes = [mode for encoder in encoders for mode in encoder.state_update_aggregation_modes]
        if unknown := set(modes) - set(_COMBINE):
            raise ValueError(f"an encoder's state asks for {unknown}; only sums, minima and maxima can be aggregated")

        @tff.tensorflow.computation
        def initial_state():
            return collections.OrderedDict(
                encoders=tuple(encoder.initial_state() for encoder in encoders),
                seed=tf.constant([self._seed, 0], tf.int32),
            )

        state_type = initial_state.type_signature.result

        @tff.tensorflow.computation(state_type)
        def parameters(state):
            per_tensor = []
            for k, (encoder, encoder_state) in enumerate(zip(encoders, state["encoders"], strict=True)):
                with randomness.stream(randomness.fold_in(state["seed"], k)):
                    per_tensor.append(encoder.get_params(encoder_state))
            encode, decode_before_sum, decode_after_sum = zip(*per_tensor, strict=True)
            return collections.OrderedDict(encode=encode, before=decode_before_sum), decode_after_sum

        sent_parameters_type, after_type = parameters.type_signature.result

        @tff.tensorflow.computation(value_type, weight_type, sent_parameters_type)
        def encode(value, weight, params):
            update, state_updates = [], []
            for k, (encoder, tensor) in enumerate(zip(encoders, value, strict=True)):
                with randomness.stream(randomness.fold_in(weight["noise_seed"], k)):
                    encoded, state_update = encoder.encode(tensor * weight["examples"], params["encode"][k])
                update.append(encoded)
                state_updates.extend(state_update)
            # TFF offers no server value inside an aggregation, so clients return the parameters that decoding needs
            # before the sum (b/139844355 in TFF's own factory); our encoders have none.
            return collections.OrderedDict(
                update=tuple(update),
                weight=weight["examples"],
                update_parameters=params["before"],
                update_state=tuple(state_updates),
            )

        message_type = encode.type_signature.result

        def as_total(message):
            parts = zip(encoders, message["update"], message["update_parameters"], strict=True)
            return collections.OrderedDict(
                update=tuple(encoder.decode_before_sum(encoded, params) for encoder, encoded, params in parts),
                weight=message["weight"],
                clients=tf.constant([1], tf.int32),
                update_state=message["update_state"],
            )

        total_type = tff.tensorflow.computation(as_total, message_type).type_signature.result

        @tff.tensorflow.computation
        def zero():
            nothing = tf.nest.map_structure(
                lambda t: tf.zeros(t.shape, t.dtype), tff.types.type_to_tf_tensor_specs(total_type)
            )
            nothing["update_state"] = tuple(
                tf.fill(t.shape, tf.constant(_COMBINE[mode][1](t.dtype), t.dtype))
                for mode, t in zip(modes, nothing["update_state"], strict=True)
            )
            return nothing

        @tff.tensorflow.computation(total_type, total_type)
        def merge(a, b):
            states = zip(modes, a["update_state"], b["update_state"], strict=True)
            return collections.OrderedDict(
                update=tf.nest.map_structure(tf.add, a["update"], b["update"]),
                weight=a["weight"] + b["weight"],
                clients=a["clients"] + b["clients"],
                update_state=tuple(_COMBINE[mode][0](x, y) for mode, x, y in states),
            )

        @tff.tensorflow.computation(total_type, message_type)
        def accumulate(total, message):
            return merge(total, as_total(message))

        @tff.tensorflow.computation(total_type)
        def report(total):
            return total

        @tff.tensorflow.computation(total_type, after_type)
        def mean(total, params):
            return tuple(
                tf.math.divide_no_nan(encoder.decode_after_sum(part, p, total["clients"]), total["weight"])
                for encoder, part, p in zip(encoders, total["update"], params, strict=True)
            )

        @tff.tensorflow.computation(state_type, total_type)
        def next_state(state, total):
            state_updates = iter(total["update_state"])
            updated = tuple(
                encoder.update_state(
                    encoder_state, tuple(next(state_updates) for _ in encoder.state_update_aggregation_modes)
                )
                for encoder, encoder_state in zip(encoders, state["encoders"], strict=True)
            )
            return collections.OrderedDict(encoders=updated, seed=randomness.fold_in(state["seed"], len(encoders)))

        @tff.federated_computation
        def initialize():
            return tff.federated_eval(initial_state, tff.SERVER)

        @tff.federated_computation(
            tff.FederatedType(state_type, tff.SERVER),
            tff.FederatedType(value_type, tff.CLIENTS),
            tff.FederatedType(weight_type, tff.CLIENTS),
        )
        def next_fn(state, value, weight):
            sent_parameters, after_sum = tff.federated_map(parameters, state)
            message = tff.federated_map(encode, (value, weight, tff.federated_broadcast(sent_parameters)))
            total = tff.federated_aggregate(message, zero(), accumulate, merge, report)
            return tff.templates.MeasuredProcessOutput(
                state=tff.federated_map(next_state, (state, total)),
                result=tff.federated_map(mean, (total, after_sum)),
                measurements=tff.federated_value((), tff.SERVER),
            )

        return tff.templates.AggregationProcess(initialize, next_fn)
