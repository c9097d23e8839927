"""Encoders: what a tensor looks like on the wire. One file per family, all of them tensor_encoding stages.

`build(config.encoder)` gives the rule that chooses an encoder for each tensor. Gather encoders serve the uplink
(`fedsweep.federated.uplink`), simple encoders the downlink (`fedsweep.federated.downlink`).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep import schema
from fedsweep.encoders import uniform

__all__ = ["EncoderRule", "build"]

EncoderRule = Callable[[tf.TensorSpec], tuple[str, te.core.Encoder]]


def build(config: schema.Encoder) -> EncoderRule:
    """The rule that maps a tensor's spec to (label, encoder); equal labels stand for equal encoders.

    Tensors with more than `config.threshold` elements get the configured encoder, the others travel as they are:
    small tensors (biases) are sensitive to error and cheap to send.
    """
    makers = {
        "uniform": uniform.uniform,
        "hadamard": uniform.hadamard,
    }

    def rule(spec: tf.TensorSpec) -> tuple[str, te.core.Encoder]:
        if config.name == "identity" or spec.shape.num_elements() <= config.threshold:
            return "identity", te.encoders.identity()
        rounding = "" if config.stochastic else " nearest"
        label = f"{config.name} {config.bits} bit{rounding} {config.packing}"
        return label, makers[config.name](config.bits, config.stochastic, config.packing)

    return rule
