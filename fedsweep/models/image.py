"""Models for images: the CNN and the 2NN of McMahan et al. 2017 (arXiv 1602.05629), and a small CNN for 8x8 digits."""

from __future__ import annotations

import math

import tensorflow as tf

from fedsweep.models.functional import Model, WeightSpec


def _convolution(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, strides=1, padding="SAME"), bias))


def _pool(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.max_pool2d(x, ksize=2, strides=2, padding="SAME")


def _dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    return tf.nn.bias_add(x @ kernel, bias)


def _layer(name: str, *kernel: int) -> tuple[WeightSpec, WeightSpec]:
    """A layer's kernel and its bias."""
    return WeightSpec(f"{name}/kernel", kernel), WeightSpec(f"{name}/bias", kernel[-1:])


def cnn(image_shape: tuple[int, int, int], classes: int) -> Model:
    """Two 5x5 convolutions (32, 64), 2x2 max pooling after each, dense 512; 1,663,370 parameters on 28x28x1."""
    height, width, channels = image_shape
    features = math.ceil(height / 4) * math.ceil(width / 4) * 64

    def logits(w, x):
        x = _pool(_convolution(x, w[0], w[1]))
        x = _pool(_convolution(x, w[2], w[3]))
        x = tf.nn.relu(_dense(tf.reshape(x, [-1, features]), w[4], w[5]))
        return _dense(x, w[6], w[7])

    weights = (
        *_layer("conv1", 5, 5, channels, 32),
        *_layer("conv2", 5, 5, 32, 64),
        *_layer("dense", features, 512),
        *_layer("logits", 512, classes),
    )
    return Model("cnn", image_shape, weights, logits)


def two_layer_perceptron(image_shape: tuple[int, int, int], classes: int) -> Model:
    """The "2NN": two hidden layers of 200 with ReLU; 199,210 parameters on 28x28x1 and 10 classes."""
    features = math.prod(image_shape)

    def logits(w, x):
        x = tf.nn.relu(_dense(tf.reshape(x, [-1, features]), w[0], w[1]))
        x = tf.nn.relu(_dense(x, w[2], w[3]))
        return _dense(x, w[4], w[5])

    weights = (*_layer("hidden1", features, 200), *_layer("hidden2", 200, 200), *_layer("logits", 200, classes))
    return Model("2nn", image_shape, weights, logits)


def cnn_small(image_shape: tuple[int, int, int], classes: int) -> Model:
    """Two 3x3 convolutions (32, 64), one 2x2 max pooling, dense 128; 151,306 parameters on 8x8x1 and 10 classes."""
    height, width, channels = image_shape
    features = math.ceil(height / 2) * math.ceil(width / 2) * 64

    def logits(w, x):
        x = _convolution(x, w[0], w[1])
        x = _pool(_convolution(x, w[2], w[3]))
        x = tf.nn.relu(_dense(tf.reshape(x, [-1, features]), w[4], w[5]))
        return _dense(x, w[6], w[7])

    weights = (
        *_layer("conv1", 3, 3, channels, 32),
        *_layer("conv2", 3, 3, 32, 64),
        *_layer("dense", features, 128),
        *_layer("logits", 128, classes),
    )
    return Model("cnn_small", image_shape, weights, logits)


BUILDERS = {"cnn": cnn, "2nn": two_layer_perceptron, "cnn_small": cnn_small}
