"""What a client does in a round: epochs of mini-batch training from the weights it received.

The client's whole data is ONE element of its sequence, looped over inside the graph: TFF's usual loop over a
`tf.data.Dataset` of batches instantiates its function anew for every client and round, about 0.1 s each.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.encoders import randomness
from fedsweep.models import Model

_SHUFFLES, NOISE = 0, 1  # sub-streams of a client's seed: the order of its examples, its encoder's noise


def data_type(model: Model, memory: Sequence[tf.TensorSpec]) -> tff.SequenceType:
    """The sequence a client brings: one element with all its examples, its seed and, with error feedback, its memory.

    `memory`: specs of the tensors that a client keeps (`uplink.remembered`), none without error feedback.
    """
    element = collections.OrderedDict(
        images=tff.TensorType(np.float32, [None, *model.image_shape]),
        labels=tff.TensorType(np.int32, [None]),
        seed=tff.TensorType(np.int32, [2]),
    )
    if memory:
        element["memory"] = tuple(tff.TensorType(np.float32, spec.shape) for spec in memory)
    return tff.SequenceType(element)


def build(
    model: Model,
    received_type: tff.Type,
    optimizer: tff.learning.optimizers.Optimizer,
    epochs: int,
    batch_size: int,
    memory: Sequence[tf.TensorSpec] = (),
) -> tff.learning.templates.ClientWorkProcess:
    """Client work for `tff.learning.templates.compose_learning_process`.

    Args:
      model: the model.
      received_type: ModelWeights; where `non_trainable` holds a mask (float32 0 or 1) for every weight tensor, the
        client trains the weights under a 1 alone (federated dropout).
      optimizer: the clients' optimizer, a fresh state each round.
      epochs: passes over the data.
      batch_size: examples in a batch; the last one of an epoch may be smaller.
      memory: see `data_type`.

    Returns:
      The process. The update is initial - trained weights (TFF's servers descend along it), weighted by the number of
      examples; beside that weight travels, inside the client only, what its encoder needs: the seed of its noise, its
      loss, its memory. Metrics are sums over examples and epochs, measured with the weights before each step: `loss`,
      `correct`, `examples`.
    """
    weight_specs = tuple(weight.spec for weight in model.weights)

    @tff.tensorflow.computation(received_type, data_type(model, memory))
    def client_update(received, sequence):
        data = sequence.get_single_element()
        images, labels, seed = data["images"], data["labels"], data["seed"]
        examples = tf.shape(labels)[0]
        initial, masks = tuple(received.trainable), tuple(received.non_trainable)

        def train_on_batch(order, start, weights, optimizer_state, loss_sum, correct):
            rows = order[start : start + batch_size]
            batch, targets = tf.gather(images, rows), tf.gather(labels, rows)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                logits = model.logits(weights, batch)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
                loss = tf.reduce_mean(losses)
            gradients = tape.gradient(loss, weights)
            if masks:
                gradients = tuple(gradient * mask for gradient, mask in zip(gradients, masks, strict=True))
            optimizer_state, weights = optimizer.next(optimizer_state, weights, gradients)
            hits = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), targets)
            return (
                order,
                start + batch_size,
                weights,
                optimizer_state,
                loss_sum + tf.reduce_sum(losses),
                correct + tf.reduce_sum(tf.cast(hits, tf.float32)),
            )

        def train_epoch(epoch, *carried):
            shuffle_seed = randomness.fold_in(randomness.fold_in(seed, _SHUFFLES), epoch)
            order = tf.random.experimental.stateless_shuffle(tf.range(examples), shuffle_seed)
            state = (order, 0, *carried)
            _, _, *carried = tf.while_loop(
                lambda order, start, *_: start < examples, train_on_batch, state, parallel_iterations=1
            )
            return (epoch + 1, *carried)

        start = (0, initial, optimizer.initialize(weight_specs), 0.0, 0.0)
        _, trained, _, loss_sum, correct = tf.while_loop(
            lambda epoch, *_: epoch < epochs, train_epoch, start, parallel_iterations=1
        )
        weight = collections.OrderedDict(
            examples=tf.cast(examples, tf.float32),
            noise_seed=randomness.fold_in(seed, NOISE),
            loss=loss_sum / tf.cast(examples * epochs, tf.float32),
        )
        if memory:
            weight["memory"] = tuple(data["memory"])
        update = tuple(before - after for before, after in zip(initial, trained, strict=True))
        metrics = collections.OrderedDict(
            loss=loss_sum, correct=correct, examples=tf.cast(examples * epochs, tf.float32)
        )
        return tff.learning.templates.ClientResult(update, weight), collections.OrderedDict(metrics=metrics)

    @tff.federated_computation
    def initialize():
        return tff.federated_value((), tff.SERVER)

    @tff.federated_computation(
        initialize.type_signature.result,
        tff.FederatedType(received_type, tff.CLIENTS),
        tff.FederatedType(data_type(model, memory), tff.CLIENTS),
    )
    def next_fn(state, weights, data):
        result, metrics = tff.federated_map(client_update, (weights, data))
        return tff.templates.MeasuredProcessOutput(state, result, tff.federated_sum(metrics))

    return tff.learning.templates.ClientWorkProcess(initialize, next_fn)
