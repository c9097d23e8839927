"""Federated averaging as a configuration has it, composed of its four parts in two ways.

`build` lets TFF's templates compose them: a plain TFF process. `form` composes the same functions to the few graphs
that the in-process runtime calls: what TFF would compile the process to (its `MapReduceForm`), in less time and without
encoding the downlink twice. That both are one algorithm is for the tests to see: runtimes agree on bits and weights.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep import encoders, schema
from fedsweep.federated import client_work, optimizers, plan
from fedsweep.federated.downlink import Downlink
from fedsweep.federated.server import Server
from fedsweep.federated.uplink import EncodedMean
from fedsweep.models import Model


@dataclass(frozen=True)
class _Parts:
    """Encoders in both directions, optimizers, seeds: TensorFlow functions."""

    initial_weights: Callable[[], tff.learning.models.ModelWeights]
    downlink: Downlink
    train: Callable
    data_type: tff.SequenceType
    uplink: EncodedMean
    server: Server


def _parts(config: schema.Config, model: Model) -> _Parts:
    start = model.initial_weights(config.seed)
    mime = isinstance(config.optimizer, schema.MimeLite)
    sent = plan.sent(config, model)

    def initial_weights():
        weights = tuple(tf.constant(tensor) for tensor in start)
        return tff.learning.models.ModelWeights(weights, tuple(map(tf.zeros_like, weights)) if mime else ())

    downlink = Downlink(
        start,
        encoders.downlink(config),
        config.seed,
        difference=config.downlink_difference,
        thinned=config.downlink.name == "dropout",
        momentum=mime,
    )
    uplink = EncodedMean(
        encoders.uplink(config),
        [weight.spec for weight in sent],
        config.seed,
        names=[weight.name for weight in sent],
        error_feedback=config.encoder.error_feedback,
        zero_bad=config.on_bad_update == "zero",
    )
    specs = [weight.spec for weight in model.weights]
    server = Server(optimizers.server(config), specs, config.optimizer.momentum if mime else None)
    data_type = client_work.data_type(model, uplink.remembered)
    return _Parts(initial_weights, downlink, client_work.training(model, config), data_type, uplink, server)


def build(config: schema.Config, model: Model) -> tff.learning.templates.LearningProcess:
    """Federated averaging of `model` as a plain `tff.learning.templates.LearningProcess`, for any runtime of TFF.

    Raises:
      ValueError: `on_bad_update` is not fail. What counts bad updates and leaves them out is not part of the process.
    """
    if config.on_bad_update != "fail":
        raise ValueError(f"on_bad_update={config.on_bad_update}: a plain TFF process has fail only")
    parts = _parts(config, model)
    initial_weights = tff.tensorflow.computation(parts.initial_weights)
    weights_type = initial_weights.type_signature.result
    distribution = parts.downlink.process(weights_type)
    received_type = distribution.next.type_signature.result.result.member
    work = client_work.process(parts.train, received_type, parts.data_type)
    sent_by_client = work.next.type_signature.result.result.member
    return tff.learning.templates.compose_learning_process(
        initial_weights,
        distribution,
        work,
        parts.uplink.process(sent_by_client.update, sent_by_client.update_weight),
        parts.server.process(weights_type),
    )


PARTS = ("prepare", "work", "zero", "accumulate", "update")


@dataclass(frozen=True)
class Form:
    """A round as computations (`PARTS`), and the leaves of the state that it begins with.

    prepare: state -> (what the server sends, what it keeps for the end of the round)
    work: (a client's sequence, what the server sent) -> what the client sends
    zero: () -> a sum; accumulate: (a sum, what a client sent) -> the sum with it
    update: (state, what the server kept, the sum) -> (state, measurements)
    """

    parts: Mapping[str, tff.Computation]
    state: Sequence[np.ndarray]  # model weights, which follow from the seed, may be left empty

    @property
    def state_type(self) -> tff.Type:
        return self.parts["prepare"].type_signature.parameter

    @property
    def broadcast_type(self) -> tff.Type:
        return self.parts["prepare"].type_signature.result[0]

    @property
    def message_type(self) -> tff.Type:
        return self.parts["work"].type_signature.result

    @property
    def metrics_type(self) -> tff.Type:
        return self.parts["update"].type_signature.result[1]


def form(config: schema.Config, model: Model) -> Form:
    """The same algorithm as the graphs of a round; its state has the leaves of `build`'s, in that order."""
    parts, computation = _parts(config, model), tff.tensorflow.computation
    downlink, uplink, server = parts.downlink, parts.uplink, parts.server

    def initial_state():
        return tff.learning.templates.LearningAlgorithmState(
            parts.initial_weights(), downlink.initial_state(), (), uplink.initial_state(), server.initial_state()
        )

    def prepare(state):
        distributor, message, coded_bits = downlink.encode(state.distributor, state.global_model_weights)
        parameters, decode_after_sum = uplink.parameters(state.aggregator)
        sent = collections.OrderedDict(message, parameters=parameters)
        kept = collections.OrderedDict(distributor=distributor, coded_bits=coded_bits, after_sum=decode_after_sum)
        return sent, kept

    def work(sequence, sent):
        update, weight, metrics = parts.train(downlink.decode(sent), sequence.get_single_element())
        message = uplink.encode(update, weight, sent["parameters"])
        if "bad" in message:  # what it measured is no number either
            metrics = tf.nest.map_structure(lambda metric: tf.where(message["bad"], 0.0, metric), metrics)
        return collections.OrderedDict(message, metrics=metrics)

    def total(message):
        return collections.OrderedDict(uplink=uplink.total(message), metrics=message["metrics"])

    def zero():
        return collections.OrderedDict(
            uplink=uplink.zero(total_specs["uplink"]),
            metrics=tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), total_specs["metrics"]),
        )

    def accumulate(so_far, message):
        return collections.OrderedDict(
            uplink=uplink.accumulate(so_far["uplink"], message),
            metrics=tf.nest.map_structure(tf.add, so_far["metrics"], message["metrics"]),
        )

    def update(state, kept, summed):
        mean = uplink.mean(summed["uplink"], kept["after_sum"])
        finalizer, weights, measured = server.step(state.finalizer, state.global_model_weights, mean)
        aggregator = uplink.next_state(state.aggregator, summed["uplink"])
        metrics = collections.OrderedDict(
            summed["metrics"],
            **uplink.measure(summed["uplink"]),
            **measured,
            downlink_coded_bits=kept["coded_bits"],
        )
        new_state = tff.learning.templates.LearningAlgorithmState(
            weights, kept["distributor"], (), aggregator, finalizer
        )
        return new_state, metrics

    state_type = computation(initial_state).type_signature.result
    made = {"prepare": computation(prepare, state_type)}
    sent_type, kept_type = made["prepare"].type_signature.result
    made["work"] = computation(work, (parts.data_type, sent_type))
    message_type = made["work"].type_signature.result
    total_type = computation(total, message_type).type_signature.result
    total_specs = tff.types.type_to_tf_tensor_specs(total_type)
    made["zero"] = computation(zero)
    made["accumulate"] = computation(accumulate, (total_type, message_type))
    made["update"] = computation(update, (state_type, kept_type, total_type))
    values = tff.structure.flatten(tff.structure.from_container(initial_state(), recursive=True))
    types = tff.structure.flatten(state_type)  # values may be plain numbers
    return Form(made, [np.asarray(value, leaf.dtype) for value, leaf in zip(values, types, strict=True)])


def graph_key(config: schema.Config, model: Model) -> str:
    """What the graphs of `form(config, model)` depend on. Not the seed: it is in the initial state alone."""
    groups = (config.encoder, config.downlink_encoder, config.code, config.schedule, config.optimizer, config.model)
    inputs = [dataclasses.asdict(group) for group in groups]
    inputs += [config.downlink.name, dataclasses.asdict(model.spec), [weight.shape for weight in model.weights]]
    scheduled = any(map(config.optimizer.changes, ("client", "server")))
    inputs += [config.client_epochs, config.client_batch_size, config.client_weighting, config.rounds * scheduled]
    inputs += [config.on_bad_update == "zero"]
    return json.dumps(inputs)


def seeded(
    state: Sequence[np.ndarray], paths: Sequence[tuple[str | None, ...]], seed: int, model: Model
) -> list[tf.Tensor]:
    """The initial state of an equal process with another seed, from the leaves of one.

    A state begins with the model's weights, and clients may hold them, too, as `held`; the streams of noise in it are
    leaves called `seed`, int32 [2], whose first word is the run's seed (`uplink`, `downlink`).
    """
    weights = [tf.constant(tensor) for tensor in model.initial_weights(seed)]
    held, leaves = iter(weights), list(weights)
    for leaf, path in zip(state[len(weights) :], paths[len(weights) :], strict=True):
        if path[-1] == "seed" and "encoders" not in path:  # not an adaptive encoder's own
            leaf = np.array([seed, leaf[1]], np.int32)
        leaves.append(next(held) if "held" in path else tf.constant(leaf))
    return leaves
