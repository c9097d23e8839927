"""Loss and accuracy of model weights on held-out examples."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedsweep.datasets import Examples, FederatedDataset
from fedsweep.models import Model, scoring
from fedsweep.runtime.graphs import as_function

_BATCH = 500  # examples; small enough that several threads share even a small test set
_LOGITS = 2**22  # of a batch at most: a vocabulary makes them many (16 MiB, and the softmax)
QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}  # of the accuracies of single clients


@dataclass(frozen=True)
class Evaluation:
    """Means over labels (of an image one, of text one a token but for padding)."""

    loss: float
    accuracy: float
    quantiles: dict[str, float] | None  # QUANTILES over clients; None where examples are nobody's


@functools.lru_cache(maxsize=2)
def _scores(model: Model) -> Callable[..., Sequence[tf.Tensor]]:
    """The function from (weights, inputs, labels) to the sum of losses, the number of labels that it is a sum over and,
    of each example, hits and labels that count."""
    spec = model.spec
    shape = [None, *(spec.input_shape if spec.text else ())]

    @tff.tensorflow.computation(
        tuple(tff.TensorType(np.float32, weight.shape) for weight in model.weights),
        tff.TensorType(np.int32 if spec.text else np.float32, [None, *spec.input_shape]),
        tff.TensorType(np.int32, shape),
    )
    def scores(weights, inputs, labels):
        found = scoring.score(spec, model.logits(weights, inputs, None), labels)
        inside = list(range(1, len(shape)))
        hits, counted = (tf.reduce_sum(part, inside) for part in (found.hits, found.counted))
        return tf.reduce_sum(found.losses), tf.reduce_sum(found.trained), hits, counted

    return as_function(scores)


class Evaluator:
    """Evaluates in `threads` threads, a batch each; sums in the order of the batches, so results repeat bit for bit."""

    def __init__(self, model: Model, dataset: FederatedDataset, threads: int):
        self._dataset, self._threads, self._scores = dataset, threads, _scores(model)
        logits = model.spec.classes * (model.spec.input_shape[0] if model.spec.text else 1)
        self._batch = min(_BATCH, max(1, _LOGITS // logits))

    def test(self, weights: Sequence[np.ndarray]) -> Evaluation:
        return self._evaluate(weights, self._dataset.test)

    def validate(self, weights: Sequence[np.ndarray]) -> Evaluation | None:
        """None where the data set has no validation set."""
        return self._evaluate(weights, self._dataset.validation) if len(self._dataset.validation) else None

    def _evaluate(self, weights: Sequence[np.ndarray], examples: Examples) -> Evaluation:
        tensors = [tf.constant(weight) for weight in weights]

        def batch(start: int) -> list[np.ndarray]:
            rows = examples.rows(slice(start, start + self._batch))
            inputs = tf.constant(self._dataset.scaled(rows.inputs))
            return [tensor.numpy() for tensor in self._scores(*tensors, inputs, tf.constant(rows.labels))]

        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            parts = zip(*pool.map(batch, range(0, len(examples), self._batch)), strict=True)
        losses, labels, hits, counted = (np.hstack(part).astype(np.float64) for part in parts)
        return Evaluation(
            loss=_share(losses, labels),
            accuracy=_share(hits, counted),
            quantiles=None if examples.clients is None else _by_client(examples.clients, hits, counted),
        )


def _share(part: np.ndarray, of: np.ndarray) -> float:
    return float(part.sum() / of.sum()) if of.any() else 0.0


def _by_client(clients: np.ndarray, hits: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """Quantiles of the accuracies of the clients that have a label that counts."""
    hit, of = (np.bincount(clients, part) for part in (hits, counted))
    accuracies = hit[of > 0] / of[of > 0]
    return {name: float(np.quantile(accuracies, at)) if len(accuracies) else 0.0 for name, at in QUANTILES.items()}
