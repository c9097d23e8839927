"""Models for images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from fedsweep.datasets import DataSpec
from fedsweep.models.functional import Model, WeightSpec, layer


def _convolution(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, padding: str = "SAME") -> tf.Tensor:
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, strides=1, padding=padding), bias))


def _pool(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.max_pool2d(x, ksize=2, strides=2, padding="SAME")


def dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """x [n, features] through a dense layer."""
    return tf.nn.bias_add(x @ kernel, bias)


def cnn(spec: DataSpec) -> Model:
    """Two 5x5 convolutions (32, 64), 2x2 max pooling after each, dense 512: McMahan et al. 2017, arXiv 1602.05629.

    1,663,370 parameters on 28x28x1 and 10 classes, 1,690,046 with 62 classes.
    """
    height, width, channels = spec.input_shape
    features = math.ceil(height / 4) * math.ceil(width / 4) * 64

    def logits(w, x, _=None):
        x = _pool(_convolution(x, w[0], w[1]))
        x = _pool(_convolution(x, w[2], w[3]))
        x = tf.nn.relu(dense(tf.reshape(x, [-1, features]), w[4], w[5]))
        return dense(x, w[6], w[7])

    weights = (
        *layer("conv1", 5, 5, channels, 32),
        *layer("conv2", 5, 5, 32, 64),
        *layer("dense", features, 512),
        *layer("logits", 512, spec.classes),
    )
    return Model("cnn", spec, weights, logits)


def two_layer_perceptron(spec: DataSpec) -> Model:
    """The "2NN" of McMahan et al. 2017: two hidden layers of 200; 199,210 parameters on 28x28x1, 10 classes."""
    features = math.prod(spec.input_shape)

    def logits(w, x, _=None):
        x = tf.nn.relu(dense(tf.reshape(x, [-1, features]), w[0], w[1]))
        x = tf.nn.relu(dense(x, w[2], w[3]))
        return dense(x, w[4], w[5])

    weights = (*layer("hidden1", features, 200), *layer("hidden2", 200, 200), *layer("logits", 200, spec.classes))
    return Model("2nn", spec, weights, logits)


def logistic_regression(spec: DataSpec) -> Model:
    """One dense layer; 7,850 parameters on 28x28x1 and 10 classes."""
    features = math.prod(spec.input_shape)

    def logits(w, x, _=None):
        return dense(tf.reshape(x, [-1, features]), w[0], w[1])

    return Model("logistic_regression", spec, layer("logits", features, spec.classes), logits)


def cnn_small(spec: DataSpec) -> Model:
    """Two 3x3 convolutions (32, 64), one 2x2 max pooling, dense 128; 151,306 parameters on 8x8x1 and 10 classes."""
    height, width, channels = spec.input_shape
    features = math.ceil(height / 2) * math.ceil(width / 2) * 64

    def logits(w, x, _=None):
        x = _convolution(x, w[0], w[1])
        x = _pool(_convolution(x, w[2], w[3]))
        x = tf.nn.relu(dense(tf.reshape(x, [-1, features]), w[4], w[5]))
        return dense(x, w[6], w[7])

    weights = (
        *layer("conv1", 3, 3, channels, 32),
        *layer("conv2", 3, 3, 32, 64),
        *layer("dense", features, 128),
        *layer("logits", 128, spec.classes),
    )
    return Model("cnn_small", spec, weights, logits)


def cnn_dropout(spec: DataSpec) -> Model:
    """The EMNIST CNN of Reddi et al. 2021 (arXiv 2003.00295): unpadded 3x3 convolutions (32, 64), 2x2 max pooling,
    dropout of 0.25, dense 128, dropout of 0.5; 1,206,590 parameters on 28x28x1 and 62 classes."""
    height, width, channels = spec.input_shape
    features = math.ceil((height - 4) / 2) * math.ceil((width - 4) / 2) * 64

    def logits(w, x, noise=None):
        x = _convolution(x, w[0], w[1], "VALID")
        x = _pool(_convolution(x, w[2], w[3], "VALID"))
        x = _dropout(tf.reshape(x, [-1, features]), 0.25, noise, 0)
        x = _dropout(tf.nn.relu(dense(x, w[4], w[5])), 0.5, noise, 1)
        return dense(x, w[6], w[7])

    weights = (
        *layer("conv1", 3, 3, channels, 32),
        *layer("conv2", 3, 3, 32, 64),
        *layer("dense", features, 128),
        *layer("logits", 128, spec.classes),
    )
    return Model("cnn_dropout", spec, weights, logits)


def _dropout(x: tf.Tensor, rate: float, noise: tf.Tensor | None, place: int) -> tf.Tensor:
    """Zeroes a share of the elements while training; `place` tells the dropouts of a model apart."""
    if noise is None:
        return x
    return tf.nn.experimental.stateless_dropout(x, rate, seed=tf.stack([noise[0], noise[1] + place]), rng_alg="philox")


_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # of ResNet-18: channels, stride of the first of two blocks
_GROUPS = 2  # of group norm, as Reddi et al. 2021 have it


def resnet18(spec: DataSpec) -> Model:
    """ResNet-18 (He et al. 2016, arXiv 1512.03385) with group norm of two groups; 11,227,812 with 100 classes."""
    _, _, channels = spec.input_shape
    weights: list[WeightSpec] = []

    def convolution(name: str, size: int, before: int, after: int) -> None:
        weights.append(WeightSpec(f"{name}/kernel", (size, size, before, after), "he_normal"))
        weights.append(WeightSpec(f"{name}/scale", (after,), "ones"))
        weights.append(WeightSpec(f"{name}/shift", (after,), "zeros"))

    convolution("stem", 7, channels, 64)
    before = 64
    for stage, (after, stride) in enumerate(_STAGES, 1):
        for block in (1, 2):
            name = f"stage{stage}/block{block}"
            convolution(f"{name}/conv1", 3, before, after)
            convolution(f"{name}/conv2", 3, after, after)
            if block == 1 and (stride > 1 or before != after):
                convolution(f"{name}/shortcut", 1, before, after)
            before = after
    weights += layer("logits", before, spec.classes)

    def logits(w, x, _=None):
        left = iter(w)
        x = tf.nn.relu(_normed(x, left, 2))
        x = tf.nn.max_pool2d(x, ksize=3, strides=2, padding="SAME")
        for after, stride in _STAGES:
            for step in (stride, 1):
                y = _normed(tf.nn.relu(_normed(x, left, step)), left, 1)
                x = _normed(x, left, step) if step > 1 or x.shape[-1] != after else x
                x = tf.nn.relu(x + y)
        return dense(tf.reduce_mean(x, [1, 2]), next(left), next(left))

    return Model("resnet18", spec, tuple(weights), logits)


def _normed(x: tf.Tensor, weights: Sequence, stride: int) -> tf.Tensor:
    """A convolution without bias and group norm, with the next three of the weights."""
    x = tf.nn.conv2d(x, next(weights), strides=stride, padding="SAME")
    scale, shift = next(weights), next(weights)
    _, height, width, channels = x.shape
    grouped = tf.reshape(x, [-1, height * width, _GROUPS, channels // _GROUPS])
    mean, variance = tf.nn.moments(grouped, [1, 3], keepdims=True)
    grouped = (grouped - mean) * tf.math.rsqrt(variance + 1e-5)
    return tf.reshape(grouped, [-1, height, width, channels]) * scale + shift


BUILDERS = {
    "cnn": cnn,
    "2nn": two_layer_perceptron,
    "cnn_small": cnn_small,
    "cnn_dropout": cnn_dropout,
    "resnet18": resnet18,
    "logistic_regression": logistic_regression,
}
