"""The learning process of a configuration, composed from TFF's templates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep import encoders, schema
from fedsweep.encoders.tree import inlined
from fedsweep.federated import client_work, downlink, optimizers, plan, server, uplink
from fedsweep.models import Model


@inlined()
def build(config: schema.Config, model: Model) -> tff.learning.templates.LearningProcess:
    """Federated averaging of `model` as `config` has it: encoders in both directions, optimizers, seeds.

    The process is a plain `tff.learning.templates.LearningProcess`: both runtimes of `fedsweep.runtime` execute it, and
    so does TFF itself.
    """
    start = model.initial_weights(config.seed)
    mime = isinstance(config.optimizer, schema.MimeLite)

    @tff.tensorflow.computation
    def initial_weights():
        weights = tuple(tf.constant(tensor) for tensor in start)
        return tff.learning.models.ModelWeights(weights, tuple(map(tf.zeros_like, weights)) if mime else ())

    weights_type = initial_weights.type_signature.result
    distribution = downlink.build(
        start,
        encoders.downlink(config),
        config.seed,
        difference=config.downlink_difference,
        thinned=config.downlink.name == "dropout",
        momentum=mime,
    )
    aggregation = uplink.EncodedMeanFactory(
        encoders.uplink(config),
        config.seed,
        names=[tensor.name for tensor in plan.sent(config, model)],
        error_feedback=config.encoder.error_feedback,
    )
    work = client_work.build(
        model,
        distribution.next.type_signature.result.result.member,
        config,
        aggregation.remembered([weight.spec for weight in model.weights]),
    )
    sent_by_client = work.next.type_signature.result.result.member
    return tff.learning.templates.compose_learning_process(
        initial_weights,
        distribution,
        work,
        aggregation.create(sent_by_client.update, sent_by_client.update_weight),
        server.finalizer(optimizers.server(config), weights_type, config.optimizer.momentum if mime else None),
    )


def graph_key(config: schema.Config, model: Model) -> str:
    """What the graphs of `build(config, model)` depend on. Not the seed: it is in the initial state alone."""
    groups = (config.encoder, config.downlink_encoder, config.code, config.schedule, config.optimizer, config.model)
    inputs = [dataclasses.asdict(group) for group in groups]
    inputs += [config.downlink.name, dataclasses.asdict(model.spec), [weight.shape for weight in model.weights]]
    scheduled = any(map(config.optimizer.changes, ("client", "server")))
    inputs += [config.client_epochs, config.client_batch_size, config.client_weighting, config.rounds * scheduled]
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
