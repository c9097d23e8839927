"""Uplink: the weighted mean of client updates, each encoded before it is sent.

As `tff.aggregators.MeanFactory(EncodedSumFactory(...))` does, a client multiplies its update by its weight and encodes
the product; the server decodes, sums, and divides by the sum of the weights. What is added to TFF's own factory is that
the encoders' randomness comes from seeds: the server's (rotations, shared by the clients of a round) from the process
state, a client's (rounding) from the client itself; and that a client can add what its last message lost.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep.encoders import EncoderRule, randomness
from fedsweep.encoders.tree import IDENTITY, gather
from fedsweep.federated import coded

# How tensors that update an adaptive encoder's state are combined, and the value that changes nothing.
COMBINE = {
    te.core.StateAggregationMode.SUM: (tf.add, lambda dtype: 0),
    te.core.StateAggregationMode.MIN: (tf.minimum, lambda dtype: dtype.max),
    te.core.StateAggregationMode.MAX: (tf.maximum, lambda dtype: dtype.min),
}


# How an update that holds a NaN or an infinity is refused; the tensor's name stands before it.
NOT_FINITE = "holds a NaN or an infinity"


class EncodedMean:
    """Weighted mean of tuples of float32 tensors through one gather encoder per tensor; TensorFlow functions.

    What a client sends is an OrderedDict with `update` (the encoded tensors), `weight` (its number of examples,
    float32) and, for adaptive encoders, what their state needs.

    With error feedback a client encodes p = update + memory and keeps p - decode(encode(p)) as its new memory (Seide et
    al. 2014; Stich et al., NeurIPS 2018, arXiv 1809.07599), all in units of update times weight. TFF's clients keep
    nothing between rounds, so the memory comes beside the weight and leaves beside the message, as `memory`: whoever
    runs the process takes it from there to the client's next round. It is not sent and not aggregated.
    """

    def __init__(
        self,
        rule: EncoderRule,
        specs: Sequence[tf.TensorSpec],
        seed: int,
        names: Sequence[str] | None = None,
        error_feedback: bool = False,
        zero_bad: bool = False,
    ):
        """`rule` chooses an encoder per tensor; `specs` are the tensors'; `seed` starts the server's stream of rotation
        seeds; `names` are the tensors', for errors. With `zero_bad` an update that holds a NaN or an infinity counts
        as zeros, its loss is in no schedule, and the message has a part `bad` (bool), which is not sent; without, it is
        an error."""
        self._specs, self._seed = list(specs), seed
        self._zero_bad = zero_bad
        self._names = names or [f"tensor_{k}" for k in range(len(self._specs))]
        chosen = [(*rule(spec), spec) for spec in self._specs]
        self._encoders = [gather(*choice) for choice in chosen]
        self._kept = [k for k, (label, _, _) in enumerate(chosen) if error_feedback and label != IDENTITY]
        self._modes = [mode for encoder in self._encoders for mode in encoder.state_update_aggregation_modes]
        if unknown := set(self._modes) - set(COMBINE):
            raise ValueError(f"an encoder's state asks for {unknown}; only sums, minima and maxima can be aggregated")

    @property
    def remembered(self) -> list[tf.TensorSpec]:
        """Specs of the tensors that a client keeps: the encoded ones, if there is error feedback."""
        return [self._specs[k] for k in self._kept]

    def initial_state(self):
        return collections.OrderedDict(
            encoders=tuple(encoder.initial_state() for encoder in self._encoders),
            seed=tf.constant([self._seed, 0], tf.int32),
        )

    def parameters(self, state):
        """At the server: (what clients need to encode, what the server needs to decode the sum)."""
        per_tensor = []
        for k, (encoder, encoder_state) in enumerate(zip(self._encoders, state["encoders"], strict=True)):
            with randomness.stream(randomness.fold_in(state["seed"], k)):
                per_tensor.append(encoder.get_params(encoder_state))
        encode, decode_before_sum, decode_after_sum = zip(*per_tensor, strict=True)
        sent = collections.OrderedDict(encode=encode, before=decode_before_sum)
        if self._kept:  # a client has to know what the server will make of its message; a shared seed is sent again
            sent["after"] = tuple(decode_after_sum[k] for k in self._kept)
        return sent, decode_after_sum

    def encode(self, value, weight, parameters):
        """At a client: its message. `weight`: examples (float32), noise_seed (int32 [2]), loss (float32) and, with
        error feedback, memory (the tensors of `remembered`)."""
        client, bad = randomness.Facts(weight["examples"], weight["loss"]), None
        if self._zero_bad:
            value = [tensor * client.examples for tensor in value]
            bad = tf.logical_not(tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in value]))
            value = [tf.where(bad, 0.0, tensor) for tensor in value]
            loss = tf.where(bad, 0.0, weight["loss"])
            client = randomness.Facts(weight["examples"], loss, loss_weight=tf.where(bad, 0.0, 1.0))
        update, state_updates, memory = [], [], []
        for k, (encoder, tensor) in enumerate(zip(self._encoders, value, strict=True)):
            if not self._zero_bad:
                tensor *= client.examples
            if k in self._kept:
                tensor += weight["memory"][len(memory)]
            tensor = _finite(tensor, self._names[k])
            with randomness.stream(randomness.fold_in(weight["noise_seed"], k), client):
                encoded, state_update = encoder.encode(tensor, parameters["encode"][k])
            update.append(encoded)
            state_updates.extend(state_update)
            if k in self._kept:
                part = encoder.decode_before_sum(encoded, parameters["before"][k])
                memory.append(tensor - encoder.decode_after_sum(part, parameters["after"][len(memory)], 1))
        # A sum over clients can ask the server for nothing (b/139844355 in TFF's own factory), so clients return the
        # parameters that decoding needs before the sum; our encoders have none.
        message = collections.OrderedDict(
            update=tuple(update),
            weight=weight["examples"],
            update_parameters=parameters["before"],
            update_state=tuple(state_updates),
        )
        if self._kept:
            message["memory"] = tuple(memory)
        if self._zero_bad:
            message["bad"] = bad
        return message

    def total(self, message):
        """A message as a sum of one."""
        parts = zip(self._encoders, message["update"], message["update_parameters"], strict=True)
        return collections.OrderedDict(
            update=tuple(encoder.decode_before_sum(encoded, parameters) for encoder, encoded, parameters in parts),
            weight=message["weight"],
            clients=tf.constant([1], tf.int32),
            update_state=message["update_state"],
            coded_bits=coded.bits(message["update"]),
            width=coded.width(message["update"], [spec.shape.num_elements() for spec in self._specs]),
        )

    def zero(self, specs):
        """The sum of none; `specs`: those of a `total`."""
        nothing = tf.nest.map_structure(lambda t: tf.zeros(t.shape, t.dtype), specs)
        nothing["update_state"] = tuple(
            tf.fill(t.shape, tf.constant(COMBINE[mode][1](t.dtype), t.dtype))
            for mode, t in zip(self._modes, nothing["update_state"], strict=True)
        )
        return nothing

    def merge(self, a, b):
        """The sum of two sums."""
        states = zip(self._modes, a["update_state"], b["update_state"], strict=True)
        return collections.OrderedDict(
            update=tf.nest.map_structure(tf.add, a["update"], b["update"]),
            weight=a["weight"] + b["weight"],
            clients=a["clients"] + b["clients"],
            update_state=tuple(COMBINE[mode][0](x, y) for mode, x, y in states),
            coded_bits=a["coded_bits"] + b["coded_bits"],
            width=a["width"] + b["width"],
        )

    def accumulate(self, total, message):
        """The sum and a message."""
        return self.merge(total, self.total(message))

    def mean(self, total, decode_after_sum):
        return tuple(
            tf.math.divide_no_nan(encoder.decode_after_sum(part, parameters, total["clients"]), total["weight"])
            for encoder, part, parameters in zip(self._encoders, total["update"], decode_after_sum, strict=True)
        )

    def measure(self, total):
        """`uplink_coded_bits` (int64: bits of lossless codes, summed over clients) and `uplink_width` (float32: the
        mean width over clients and elements that follow a schedule, 0 if none does)."""
        clients = tf.cast(total["clients"][0], tf.float32)
        width = tf.math.divide_no_nan(total["width"], clients)
        return collections.OrderedDict(uplink_coded_bits=total["coded_bits"], uplink_width=width)

    def next_state(self, state, total):
        state_updates = iter(total["update_state"])
        updated = tuple(
            encoder.update_state(
                encoder_state, tuple(next(state_updates) for _ in encoder.state_update_aggregation_modes)
            )
            for encoder, encoder_state in zip(self._encoders, state["encoders"], strict=True)
        )
        return collections.OrderedDict(encoders=updated, seed=randomness.fold_in(state["seed"], len(self._encoders)))

    def process(self, value_type: tff.Type, weight_type: tff.Type) -> tff.templates.AggregationProcess:
        """As TFF composes it: `value_type` holds the tensors, `weight_type` what `encode` asks for."""
        computation = tff.tensorflow.computation

        def named_parameters(state):  # the wire meter knows them by that name
            sent, after_sum = self.parameters(state)
            return collections.OrderedDict(parameters=sent), after_sum

        initial_state = computation(self.initial_state)
        state_type = initial_state.type_signature.result
        parameters = computation(named_parameters, state_type)
        sent_type, after_type = parameters.type_signature.result
        encode = computation(
            lambda value, weight, sent: self.encode(value, weight, sent["parameters"]),
            (value_type, weight_type, sent_type),
        )
        message_type = encode.type_signature.result
        total_type = computation(self.total, message_type).type_signature.result
        zero = computation(lambda: self.zero(tff.types.type_to_tf_tensor_specs(total_type)))
        accumulate = computation(self.accumulate, (total_type, message_type))
        merge = computation(self.merge, (total_type, total_type))
        report = computation(lambda total: total, total_type)
        mean = computation(self.mean, (total_type, after_type))
        measure = computation(self.measure, total_type)
        next_state = computation(self.next_state, (state_type, total_type))

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
                measurements=tff.federated_map(measure, total),
            )

        return tff.templates.AggregationProcess(initialize, next_fn)


class EncodedMeanFactory(tff.aggregators.WeightedAggregationFactory):
    """`EncodedMean` for any program that composes a process with TFF."""

    def __init__(self, rule: EncoderRule, seed: int, names: Sequence[str] | None = None, error_feedback: bool = False):
        """As `EncodedMean`."""
        self._arguments = {"rule": rule, "seed": seed, "names": names, "error_feedback": error_feedback}

    def create(self, value_type: tff.Type, weight_type: tff.Type) -> tff.templates.AggregationProcess:
        """`value_type`: a tuple of float32 tensors; `weight_type`: <examples=float32, noise_seed=int32[2],
        loss=float32> and, with error feedback, memory=<the tensors that are encoded>."""
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in value_type]
        return EncodedMean(specs=specs, **self._arguments).process(value_type, weight_type)


def _finite(tensor: tf.Tensor, name: str) -> tf.Tensor:
    """The tensor; an error where an element is no finite number. (check_numerics alone takes seven times as long.)"""
    finite = tf.reduce_all(tf.math.is_finite(tensor))
    return tf.cond(finite, lambda: tensor, lambda: tf.debugging.check_numerics(tensor, f"{name} {NOT_FINITE}"))
