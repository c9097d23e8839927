"""A model as data: named weight tensors and a pure function from (weights, images) to logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from fedsweep import seeds


@dataclass(frozen=True)
class WeightSpec:
    """One weight tensor: its name, as tables show it, and its shape. All weights are float32."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def spec(self) -> tf.TensorSpec:
        return tf.TensorSpec(self.shape, tf.float32)


@dataclass(frozen=True)
class Model:
    """`logits(weights, images)`: images are float32 [n, *image_shape], logits float32 [n, classes]."""

    name: str
    image_shape: tuple[int, int, int]
    weights: tuple[WeightSpec, ...]
    logits: Callable[[Sequence[tf.Tensor], tf.Tensor], tf.Tensor]

    @property
    def parameters(self) -> int:
        return sum(spec.size for spec in self.weights)

    def initial_weights(self, seed: int) -> list[np.ndarray]:
        """Glorot uniform for kernels (Keras's default), zeros for biases; the same for the same seed."""
        tensor_seeds = seeds.words(seed, seeds.Stream.WEIGHTS, len(self.weights))
        return [
            np.zeros(spec.shape, np.float32)
            if len(spec.shape) == 1
            else np.asarray(tf.keras.initializers.GlorotUniform(int(tensor_seed))(spec.shape, tf.float32))
            for spec, tensor_seed in zip(self.weights, tensor_seeds, strict=True)
        ]
