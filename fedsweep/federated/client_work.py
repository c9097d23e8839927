"""What a client does in a round: epochs of mini-batch training from the weights it received.

The client's whole data is ONE element of its sequence, looped over inside the graph: TFF's usual loop over a
`tf.data.Dataset` of batches instantiates its function anew for every client and round, about 0.1 s each.
"""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.encoders import randomness
from fedsweep.models import Model

_SHUFFLES, NOISE = 0, 1  # sub-streams of a client's seed: the order of its examples, its encoder's noise


def data_type(model: Model) -> tff.SequenceType:
    """The sequence a client brings: one element with all its examples and its seed (`cohort.ClientData`)."""
    return tff.SequenceType(
        collections.OrderedDict(
            images=tff.TensorType(np.float32, [None, *model.image_shape]),
            labels=tff.TensorType(np.int32, [None]),
            seed=tff.TensorType(np.int32, [2]),
        )
    )


def build(
    model: Model, weights_type: tff.Type, optimizer: tff.learning.optimizers.Optimizer, epochs: int, batch_size: int
) -> tff.learning.templates.ClientWorkProcess:
    """Client work for `tff.learning.templates.compose_learning_process`.

    The update is initial - trained weights (TFF's servers descend along it). It is weighted by the number of examples;
    beside that weight travels, inside the client only, the seed of the client's encoder noise. Metrics are sums over
    examples and epochs, measured with the weights before each step: `loss`, `correct`, `examples`.
    """
    weight_specs = tuple(weight.spec for weight in model.weights)

    @tff.tensorflow.computation(weights_type, data_type(model))
    def client_update(received, sequence):
        data = sequence.get_single_element()
        images, labels, seed = data["images"], data["labels"], data["seed"]
        examples = tf.shape(labels)[0]
        initial = tuple(received.trainable)

        def train_on_batch(order, start, weights, optimizer_state, loss_sum, correct):
            rows = order[start : start + batch_size]
            batch, targets = tf.gather(images, rows), tf.gather(labels, rows)
            with tf.GradientTape() as tape:
                tape.watch(weights)
                logits = model.logits(weights, batch)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
                loss = tf.reduce_mean(losses)
            gradients = tape.gradient(loss, weights)
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
            examples=tf.cast(examples, tf.float32), noise_seed=randomness.fold_in(seed, NOISE)
        )
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
        tff.FederatedType(weights_type, tff.CLIENTS),
        tff.FederatedType(data_type(model), tff.CLIENTS),
    )
    def next_fn(state, weights, data):
        result, metrics = tff.federated_map(client_update, (weights, data))
        return tff.templates.MeasuredProcessOutput(state, result, tff.federated_sum(metrics))

    return tff.learning.templates.ClientWorkProcess(initialize, next_fn)
