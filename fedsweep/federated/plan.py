"""The plan of a configuration: for every tensor, how it is encoded and what it costs. Known before training.

The sizes are those of the encoders' own output, traced without data, so they are what the wire meter will read; a test
holds the two against each other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep import encoders, schema
from fedsweep.models import Model
from fedsweep.models.functional import WeightSpec

# What a client sends beside its update (federated.client_work, federated.uplink), float32 each.
WEIGHT_BITS = 32  # its number of examples
METRICS_BITS = 3 * 32  # loss, correct, examples


@dataclass(frozen=True)
class TensorPlan:
    """One tensor in one direction, for one client and round."""

    tensor: str
    shape: tuple[int, ...]
    encoder: str
    bits: int  # what the sender of the tensor sends
    parameter_bits: int = 0  # what the server sends along so that clients can encode (uplink only)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def float32_bits(self) -> int:
        return 32 * self.elements


@dataclass(frozen=True)
class Plan:
    """Both directions, for one client and round."""

    uplink: tuple[TensorPlan, ...]
    downlink: tuple[TensorPlan, ...]

    @property
    def uplink_bits(self) -> int:
        return sum(t.bits for t in self.uplink) + WEIGHT_BITS + METRICS_BITS

    @property
    def downlink_bits(self) -> int:
        return sum(t.bits for t in self.downlink) + sum(t.parameter_bits for t in self.uplink)

    @property
    def float32_uplink_bits(self) -> int:
        """The same message without encoding."""
        return sum(t.float32_bits for t in self.uplink) + WEIGHT_BITS + METRICS_BITS

    @property
    def float32_downlink_bits(self) -> int:
        return sum(t.float32_bits for t in self.downlink)

    def as_dict(self) -> dict:
        """For result.json."""
        return {
            "uplink": [dataclasses.asdict(t) for t in self.uplink],
            "downlink": [dataclasses.asdict(t) for t in self.downlink],
            "uplink_bits": self.uplink_bits,
            "downlink_bits": self.downlink_bits,
            "float32_uplink_bits": self.float32_uplink_bits,
            "float32_downlink_bits": self.float32_downlink_bits,
        }


def of(config: schema.Config, model: Model) -> Plan:
    """The plan of a checked configuration for its model."""
    up, down = encoders.build(config.encoder), encoders.build(config.downlink_encoder)

    def uplink(weight: WeightSpec) -> TensorPlan:
        label, encoder = up(weight.spec)
        return TensorPlan(weight.name, weight.shape, label, *_sent(_uplink, label, weight.shape, encoder))

    def downlink(weight: WeightSpec) -> TensorPlan:
        label, encoder = down(weight.spec)
        return TensorPlan(weight.name, weight.shape, label, *_sent(_downlink, label, weight.shape, encoder))

    return Plan(tuple(map(uplink, model.weights)), tuple(map(downlink, model.weights)))


_known: dict[tuple, tuple[int, ...]] = {}


def _sent(measure: Callable[..., tuple[int, ...]], label: str, shape: tuple[int, ...], encoder) -> tuple[int, ...]:
    """Measured once for equal labels, which stand for equal encoders: tracing a quantizer takes 0.1 s."""
    key = (measure, label, shape)
    if key not in _known:
        _known[key] = measure(shape, encoder)
    return _known[key]


def _uplink(shape: tuple[int, ...], encoder: te.core.Encoder) -> tuple[int, int]:
    """(bits that a client sends, bits of the parameters that the server sends along)"""
    with tf.Graph().as_default():  # shapes only, no arithmetic
        gather = te.encoders.as_gather_encoder(encoder, tf.TensorSpec(shape, tf.float32))
        encode_params, before_params, _ = gather.get_params(gather.initial_state())
        encoded, state_update = gather.encode(tf.zeros(shape), encode_params)
        sent = _bits((encoded, before_params, state_update))
        return sent, _bits((encode_params, before_params))


def _downlink(shape: tuple[int, ...], encoder: te.core.Encoder) -> tuple[int]:
    with tf.Graph().as_default():
        simple = te.encoders.as_simple_encoder(encoder, tf.TensorSpec(shape, tf.float32))
        encoded, _ = simple.encode(tf.zeros(shape), simple.initial_state())
        return (_bits(encoded),)


def _bits(structure) -> int:
    return sum(t.shape.num_elements() * t.dtype.size * 8 for t in tf.nest.flatten(structure))


def warnings(config: schema.Config, plan: Plan) -> list[str]:
    """What a person should know before training: directions in which the plan encodes nothing."""
    directions = {"encoder": plan.uplink, "downlink": plan.downlink}
    silent = [group for group, tensors in directions.items() if all(t.encoder == "identity" for t in tensors)]
    if len(silent) == 2 and config.encoder.name == config.downlink_encoder.name == "identity":
        return ["This plan encodes nothing: every tensor travels as float32."]
    lines = []
    for group in silent:
        choice = getattr(config, group)
        if choice.name != "identity":
            largest = max(directions[group], key=lambda tensor: tensor.elements)
            lines.append(
                f"This plan encodes nothing with {group}={choice.name}: no tensor has more elements than the threshold"
                f" (the largest, {largest.tensor}, has {largest.elements:,})."
            )
    return lines
