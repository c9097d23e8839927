"""What a model's logits are worth: loss and hits, in training and in evaluation."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from fedsweep.datasets import PADDING, DataSpec


class Score(NamedTuple):
    """float32, each of the labels' shape, and 0 where it does not apply. (A tuple may leave a `tf.function`.)"""

    losses: tf.Tensor  # cross-entropy
    trained: tf.Tensor  # 1 where the label is trained on: everywhere but at padding
    hits: tf.Tensor  # 1 where the largest logit is the label's
    counted: tf.Tensor  # 1 where the label counts for accuracy


def score(spec: DataSpec, logits: tf.Tensor, labels: tf.Tensor) -> Score:
    """Scores logits [..., classes] of data of this spec against labels, int32 [...]."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    hits = tf.cast(tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels), tf.float32)
    if not spec.text:
        everywhere = tf.ones_like(losses)
        return Score(losses, everywhere, hits, everywhere)
    trained = tf.cast(tf.not_equal(labels, PADDING), tf.float32)  # (!= compares objects in TFF's graphs)
    counted = trained
    for label in spec.uncounted:
        counted *= tf.cast(tf.not_equal(labels, label), tf.float32)
    return Score(losses * trained, trained, hits * counted, counted)


def mean_loss(spec: DataSpec, found: Score) -> tf.Tensor:
    """What is minimized on a batch: the mean over what is trained on."""
    if not spec.text:
        return tf.reduce_mean(found.losses)
    return tf.math.divide_no_nan(tf.reduce_sum(found.losses), tf.reduce_sum(found.trained))
