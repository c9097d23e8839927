"""A model as data: named weight tensors and a pure function from (weights, inputs) to logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from fedsweep import seeds
from fedsweep.datasets import DataSpec


@dataclass(frozen=True)
class WeightSpec:
    """One weight tensor: its name, as tables show it, its shape, and how it begins. All weights are float32."""

    name: str
    shape: tuple[int, ...]
    initial: str = "glorot_uniform"  # a Keras initializer, or lstm_bias

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def spec(self) -> tf.TensorSpec:
        return tf.TensorSpec(self.shape, tf.float32)


def layer(name: str, *kernel: int) -> tuple[WeightSpec, WeightSpec]:
    """A layer's kernel and its bias, which begin as Keras's do."""
    return WeightSpec(f"{name}/kernel", kernel), WeightSpec(f"{name}/bias", kernel[-1:], "zeros")


def drawn(weights: Sequence[WeightSpec], seed: int) -> list[np.ndarray]:
    """Initial weights; the same for the same seed."""
    tensor_seeds = seeds.words(seed, seeds.Stream.WEIGHTS, len(weights))
    return [_initial(weight, int(word)) for weight, word in zip(weights, tensor_seeds, strict=True)]


def _initial(weight: WeightSpec, seed: int) -> np.ndarray:
    if weight.initial in ("zeros", "ones"):
        return getattr(np, weight.initial)(weight.shape, np.float32)
    if weight.initial == "lstm_bias":  # 1 for the forget gate, the second of four: Jozefowicz et al. 2015
        return np.repeat(np.float32([0, 1, 0, 0]), weight.size // 4)
    settings = {"class_name": weight.initial, "config": {"seed": seed}}
    return np.asarray(tf.keras.initializers.get(settings)(weight.shape, tf.float32))


@dataclass(frozen=True)
class Model:
    """`logits(weights, inputs, noise)`: what an example's labels are, as far as the model knows.

    Inputs are images, float32 [n, height, width, channels], and logits float32 [n, classes]; or tokens, int32 [n,
    tokens], and logits float32 [n, tokens, classes]. `noise` is a seed, int32 [2], while the model trains (for dropout)
    and None while it is evaluated. The function is called in graphs alone.
    """

    name: str
    spec: DataSpec
    weights: tuple[WeightSpec, ...]
    logits: Callable[[Sequence[tf.Tensor], tf.Tensor, tf.Tensor | None], tf.Tensor]
    initial: Callable[[int], list[np.ndarray]] | None = None  # seed -> weights; None: as the weights' specs say

    @property
    def parameters(self) -> int:
        return sum(spec.size for spec in self.weights)

    def initial_weights(self, seed: int) -> list[np.ndarray]:
        """The weights that training begins with; the same for the same seed."""
        return self.initial(seed) if self.initial else drawn(self.weights, seed)
