"""What a client does in a round: epochs of mini-batch training from the weights it received.

The client's whole data is ONE element of its sequence, looped over inside the graph: TFF's usual loop over a
`tf.data.Dataset` of batches instantiates its function anew for every client and round, about 0.1 s each.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep import schema
from fedsweep.encoders import randomness
from fedsweep.federated import optimizers
from fedsweep.models import Model, scoring

# Sub-streams of a client's seed: the order of its examples, its encoder's noise, its model's noise (dropout).
_SHUFFLES, NOISE, _MODEL = 0, 1, 2

_Tensors = tuple[tf.Tensor, ...]


def data_type(model: Model, memory: Sequence[tf.TensorSpec]) -> tff.SequenceType:
    """The sequence a client brings: one element with all its examples, its seed, the round's number and, with error
    feedback, its memory.

    `memory`: specs of the tensors that a client keeps (`uplink.remembered`), none without error feedback.
    """
    spec = model.spec
    element = {
        "inputs": tff.TensorType(np.int32 if spec.text else np.float32, [None, *spec.input_shape]),
        "labels": tff.TensorType(np.int32, [None, *(spec.input_shape if spec.text else ())]),
        "round": tff.TensorType(np.int32, []),
        "seed": tff.TensorType(np.int32, [2]),
    }
    if memory:
        element["memory"] = tuple(tff.TensorType(np.float32, spec.shape) for spec in memory)
    return tff.SequenceType(collections.OrderedDict(sorted(element.items())))  # the order of tf.data's own flattening


def training(model: Model, config: schema.Config) -> Callable:
    """What a client does: a TensorFlow function of the weights it received and of its data.

    `(received, data) -> (update, weight, metrics)`. `received`: ModelWeights; `non_trainable` may hold a tensor for
    each weight tensor: the server's momentum with `mime_lite`, else a mask (float32 0 or 1), and the client trains the
    weights under a 1 alone (federated dropout). `data`: the element of `data_type`.

    The update is initial - trained weights (TFF's servers descend along it), with `mime_lite` followed by the gradient
    of all examples at the initial weights, weighted by the number of examples, or 1; beside that weight travels, inside
    the client only, what its encoder needs: the seed of its noise, its loss, its memory. Metrics are sums over labels
    and epochs, measured with the weights before each step: `loss`, `correct`, `examples` (labels that are trained on:
    of an image one) and, if accuracy leaves some of these out, `counted`.
    """
    spec, settings = model.spec, config.optimizer
    weight_specs = tuple(weight.spec for weight in model.weights)
    optimizer = optimizers.client(settings)
    mime = isinstance(settings, schema.MimeLite)
    # The rate multiplies the loss instead of each gradient, which saves a pass over the weights. Not with a Keras
    # model, in which a gradient may be somebody's own and need not be linear.
    plain = _only_masks(settings) and config.model.name != "keras"

    # Not inlined: the loop's own graph has a cycle, in which oneDNN's pass comes to max pooling before its gradient by
    # chance alone, anew each time that the graph is loaded. TensorFlow's own gradient takes six times as long.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def gradient(weights: _Tensors, inputs: tf.Tensor, labels: tf.Tensor, noise: tf.Tensor | None, rate=1.0):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            found = scoring.score(spec, model.logits(weights, inputs, noise), labels)
            loss = scoring.mean_loss(spec, found)
        zero = tf.UnconnectedGradients.ZERO
        slopes = tape.gradient(loss, weights, output_gradients=rate, unconnected_gradients=zero)
        return tuple(map(tf.convert_to_tensor, slopes)), found  # an embedding's come by rows

    def train(received, data):
        inputs, labels, seed = data["inputs"], data["labels"], data["seed"]
        examples = tf.shape(labels)[0]
        initial, beside = tuple(received.trainable), tuple(received.non_trainable)
        direction = _direction(settings, initial, beside)
        rate = settings.client_lr
        if settings.changes("client"):
            rate *= optimizers.factor(config, "client", data["round"])

        def train_on_batch(epoch_noise, order, start, weights, optimizer_state, totals):
            rows = order[start : start + config.client_batch_size]
            noise = randomness.fold_in(epoch_noise, start)
            batch = (tf.gather(inputs, rows), tf.gather(labels, rows), noise)
            slopes, found = gradient(weights, *batch, rate if plain else 1.0)
            downhill = direction(slopes, weights)
            if plain:
                weights = tuple(weight - step for weight, step in zip(weights, downhill, strict=True))
            else:
                optimizer_state, weights = optimizer.next(optimizer_state, weights, downhill)
            more = [found.losses, found.hits, found.trained, found.counted]
            totals = tuple(total + tf.reduce_sum(part) for total, part in zip(totals, more, strict=True))
            return order, start + config.client_batch_size, weights, optimizer_state, totals

        def train_epoch(epoch, *carried):
            shuffle_seed = randomness.fold_in(randomness.fold_in(seed, _SHUFFLES), epoch)
            order = tf.random.experimental.stateless_shuffle(tf.range(examples), shuffle_seed)
            epoch_noise = randomness.fold_in(randomness.fold_in(seed, _MODEL), epoch)
            state = (order, 0, *carried)
            _, _, *carried = tf.while_loop(
                lambda order, start, *_: start < examples,
                functools.partial(train_on_batch, epoch_noise),
                state,
                parallel_iterations=1,
            )
            return (epoch + 1, *carried)

        optimizer_state = optimizer.initialize(weight_specs)
        if settings.changes("client"):
            changed = {**optimizer.get_hparams(optimizer_state), "learning_rate": rate}
            optimizer_state = optimizer.set_hparams(optimizer_state, changed)
        start = (0, initial, optimizer_state, (0.0,) * 4)
        _, trained, _, totals = tf.while_loop(
            lambda epoch, *_: epoch < config.client_epochs, train_epoch, start, parallel_iterations=1
        )
        loss, correct, predictions, counted = totals
        metrics = collections.OrderedDict(loss=loss, correct=correct, examples=predictions)
        if spec.uncounted:
            metrics["counted"] = counted
        weight = collections.OrderedDict(
            examples=tf.cast(examples, tf.float32) if config.client_weighting == "examples" else tf.constant(1.0),
            noise_seed=randomness.fold_in(seed, NOISE),
            loss=tf.math.divide_no_nan(loss, predictions),
        )
        if "memory" in data:
            weight["memory"] = tuple(data["memory"])
        update = tuple(before - after for before, after in zip(initial, trained, strict=True))
        if settings.update_clip is not None:
            update = tuple(tf.clip_by_global_norm(update, settings.update_clip)[0])
        if mime:
            update += _whole_gradient(gradient, initial, inputs, labels, config.client_batch_size)
        return update, weight, metrics

    return train


def process(
    train: Callable, received_type: tff.Type, client_type: tff.SequenceType
) -> tff.learning.templates.ClientWorkProcess:
    """`training` as TFF composes it; `received_type`: ModelWeights, `client_type`: a `data_type`."""

    @tff.tensorflow.computation(received_type, client_type)
    def client_update(received, sequence):
        update, weight, metrics = train(received, sequence.get_single_element())
        return tff.learning.templates.ClientResult(update, weight), collections.OrderedDict(metrics=metrics)

    @tff.federated_computation
    def initialize():
        return tff.federated_value((), tff.SERVER)

    @tff.federated_computation(
        initialize.type_signature.result,
        tff.FederatedType(received_type, tff.CLIENTS),
        tff.FederatedType(client_type, tff.CLIENTS),
    )
    def next_fn(state, weights, data):
        result, metrics = tff.federated_map(client_update, (weights, data))
        return tff.templates.MeasuredProcessOutput(state, result, tff.federated_sum(metrics))

    return tff.learning.templates.ClientWorkProcess(initialize, next_fn)


def _only_masks(settings: schema.Optimizer) -> bool:
    """Whether `_direction` does nothing to a gradient but mask it, and the optimizer only multiplies it by the rate."""
    more = (settings.client_momentum, settings.client_clip, settings.client_weight_decay)
    return not any(more) and not isinstance(settings, schema.Proximal | schema.MimeLite)


def _direction(
    settings: schema.Optimizer, initial: _Tensors, beside: _Tensors
) -> Callable[[_Tensors, _Tensors], _Tensors]:
    """The function from (a batch's gradient, weights) to what the client's optimizer descends along.

    Where `_only_masks` holds, the gradient may come times the rate, and so does the direction.
    """

    def combine(*parts: tuple[float, _Tensors]) -> _Tensors:
        return tuple(
            tf.add_n([scale * tensor for (scale, _), tensor in zip(parts, tensors, strict=True)])
            for tensors in zip(*(tensors for _, tensors in parts), strict=True)
        )

    def direction(slopes: _Tensors, weights: _Tensors) -> _Tensors:
        if isinstance(settings, schema.Proximal):  # the gradient of mu/2 |w - initial|^2
            slopes = combine((1, slopes), (settings.proximal, weights), (-settings.proximal, initial))
        if settings.client_clip is not None:
            slopes = tuple(tf.clip_by_global_norm(slopes, settings.client_clip)[0])
        if settings.client_weight_decay:
            slopes = combine((1, slopes), (settings.client_weight_decay, weights))
        if isinstance(settings, schema.MimeLite):
            return combine((1 - settings.momentum, slopes), (settings.momentum, beside))
        if beside:
            slopes = tuple(slope * mask for slope, mask in zip(slopes, beside, strict=True))
        return slopes

    return direction


def _whole_gradient(gradient, weights: _Tensors, inputs: tf.Tensor, labels: tf.Tensor, batch_size: int) -> _Tensors:
    """The gradient of the mean loss over all examples, batch by batch."""
    examples = tf.shape(labels)[0]

    def add(start, total, trained):
        rows = slice(start, start + batch_size)
        slopes, found = gradient(weights, inputs[rows], labels[rows], None)
        share = tf.reduce_sum(found.trained)
        total = tuple(so_far + share * slope for so_far, slope in zip(total, slopes, strict=True))
        return start + batch_size, total, trained + share

    start = (0, tuple(map(tf.zeros_like, weights)), 0.0)
    _, total, trained = tf.while_loop(lambda start, *_: start < examples, add, start, parallel_iterations=1)
    return tuple(tf.math.divide_no_nan(tensor, trained) for tensor in total)
