"""Loss and accuracy of model weights on examples that no client holds."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from fedsweep.datasets import FederatedDataset
from fedsweep.models import Model

_BATCH = 500  # examples; small enough that several threads share even a small test set


@dataclass(frozen=True)
class Evaluation:
    """Means over the examples."""

    loss: float
    accuracy: float


@functools.lru_cache(maxsize=2)
def _sums(model: Model) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """The function from (weights, images, labels) to the sum of losses and the number of hits."""

    @tf.function(
        input_signature=[
            [weight.spec for weight in model.weights],
            tf.TensorSpec([None, *model.image_shape], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def sums(weights, images, labels):
        logits = model.logits(weights, images)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        hits = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
        return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(hits, tf.int32))

    return sums.get_concrete_function()  # traced once a model, which TensorFlow would warn of


class Evaluator:
    """Evaluates in `threads` threads, a batch each; sums in the order of the batches, so results repeat bit for bit."""

    def __init__(self, model: Model, dataset: FederatedDataset, threads: int):
        self._dataset, self._threads, self._sums = dataset, threads, _sums(model)

    def test(self, weights: Sequence[np.ndarray]) -> Evaluation:
        return self._evaluate(weights, self._dataset.test_images, self._dataset.test_labels)

    def validate(self, weights: Sequence[np.ndarray]) -> Evaluation | None:
        """None where the data set has no validation set."""
        if not len(self._dataset.validation_labels):
            return None
        return self._evaluate(weights, self._dataset.validation_images, self._dataset.validation_labels)

    def _evaluate(self, weights: Sequence[np.ndarray], pixels: np.ndarray, labels: np.ndarray) -> Evaluation:
        tensors = [tf.constant(weight) for weight in weights]

        def batch(start: int) -> tuple[float, int]:
            rows = slice(start, start + _BATCH)
            images = self._dataset.scaled(pixels[rows])
            loss, hits = self._sums(tensors, tf.constant(images), tf.constant(labels[rows]))
            return float(loss), int(hits)

        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            losses, hits = zip(*pool.map(batch, range(0, len(labels), _BATCH)), strict=True)
        return Evaluation(sum(losses) / len(labels), sum(hits) / len(labels))
