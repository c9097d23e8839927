"""The plan of a configuration: for every tensor, how it is encoded and what it costs. Known before training.

The sizes are those of the encoders' own output, traced without data, so they are what the wire meter will read; a test
holds the two against each other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding as te

from fedsweep import encoders, schema
from fedsweep.encoders import tree
from fedsweep.federated import coded, cohort
from fedsweep.models import Model
from fedsweep.models.functional import WeightSpec

# What a client sends beside its update (federated.client_work, federated.uplink), float32 each.
WEIGHT_BITS = 32  # its number of examples
METRIC_BITS = 32  # each of loss, correct, examples, and counted where accuracy leaves something out


@dataclass(frozen=True)
class TensorPlan:
    """One tensor in one direction, for one client and round."""

    tensor: str
    shape: tuple[int, ...]
    encoder: str
    bits: int  # what the sender of the tensor sends; of a coded one, all but the code's bytes
    coded: bool = False  # a lossless code sends as many bits as the data asks for: they are known when they are sent
    parameter_bits: int = 0  # what the server sends along so that clients can encode (uplink only)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def float32_bits(self) -> int:
        return 32 * self.elements


@dataclass(frozen=True)
class Plan:
    """Both directions, for one client and round; and how many clients that is."""

    uplink: tuple[TensorPlan, ...]
    downlink: tuple[TensorPlan, ...]
    clients: int  # that send in a round
    receivers: int  # that the model goes to in a round: those, or all clients of the data set (`downlink.Downlink`)
    rounds: int
    messages: int  # updates that clients send in the whole run: fewer than it has clients where some drop out
    metrics_bits: int = 3 * METRIC_BITS

    @property
    def uplink_bits(self) -> int:
        return sum(t.bits for t in self.uplink) + WEIGHT_BITS + self.metrics_bits

    @property
    def downlink_bits(self) -> int:
        return sum(t.bits for t in self.downlink) + sum(t.parameter_bits for t in self.uplink)

    @property
    def coded(self) -> bool:
        """Whether lossless codes send more than the plan can know."""
        return any(tensor.coded for tensor in (*self.uplink, *self.downlink))

    @property
    def round_bits(self) -> tuple[int, int]:
        """(uplink, downlink) bits of a round in which all clients send; the least, where codes send more."""
        model = sum(t.bits for t in self.downlink)
        return self.uplink_bits * self.clients, (model * self.receivers + (self.downlink_bits - model) * self.clients)

    @property
    def float32_uplink_bits(self) -> int:
        """The same message without encoding."""
        return sum(t.float32_bits for t in self.uplink) + WEIGHT_BITS + self.metrics_bits

    @property
    def float32_downlink_bits(self) -> int:
        return sum(t.float32_bits for t in self.downlink)

    @property
    def run_bits(self) -> tuple[int, int]:
        """(uplink, downlink) bits of the whole run, all clients together; the least, where codes send more."""
        return self.uplink_bits * self.messages, self.round_bits[1] * self.rounds

    def as_dict(self) -> dict:
        """For result.json."""
        return {
            "uplink": [dataclasses.asdict(t) for t in self.uplink],
            "downlink": [dataclasses.asdict(t) for t in self.downlink],
            "uplink_bits": self.uplink_bits,
            "downlink_bits": self.downlink_bits,
            "float32_uplink_bits": self.float32_uplink_bits,
            "float32_downlink_bits": self.float32_downlink_bits,
            "clients": self.clients,
            "receivers": self.receivers,
            "messages": self.messages,
            "round_bits": self.round_bits,
            "run_bits": self.run_bits,
            "coded": self.coded,
        }


def of(config: schema.Config, model: Model, population: Callable[[], int]) -> Plan:
    """The plan of a checked configuration for its model.

    `population` gives the number of clients in the data set; it is asked only if something goes to all of them.
    """
    up, down = encoders.uplink(config), encoders.downlink(config)

    def uplink(weight: WeightSpec) -> TensorPlan:
        label, encoder = up(weight.spec)
        sizes = _sizes(label, weight.shape, encoder)
        parameters = sizes.to_encode + sizes.before_sum
        if config.encoder.error_feedback and label != tree.IDENTITY:
            label, parameters = f"{label}, error feedback", parameters + sizes.after_sum
        bits = sizes.encoded + sizes.before_sum + sizes.told
        return TensorPlan(weight.name, weight.shape, label, bits, sizes.coded, parameters)

    def downlink(weight: WeightSpec) -> TensorPlan:
        label, encoder = down(weight.spec)
        sizes = _sizes(label, weight.shape, encoder)
        bits = sizes.encoded + sizes.before_sum + sizes.after_sum
        if config.downlink_difference:  # small tensors too: what goes to whom is the whole message's
            label = f"{label}, difference"
        return TensorPlan(weight.name, weight.shape, label, bits, sizes.coded)

    clients = config.clients_per_round
    down_plans = tuple(map(downlink, model.weights))
    if isinstance(config.optimizer, schema.MimeLite):
        down_plans += tuple(
            TensorPlan(f"momentum of {weight.name}", weight.shape, tree.IDENTITY, 32 * weight.size)
            for weight in model.weights
        )
    return Plan(
        tuple(map(uplink, sent(config, model))),
        down_plans,
        clients,
        population() if config.downlink_difference else clients,
        config.rounds,
        cohort.messages(config, population, config.rounds)[0],
        (4 if model.spec.uncounted else 3) * METRIC_BITS,
    )


def sent(config: schema.Config, model: Model) -> list[WeightSpec]:
    """The tensors that a client sends: its update and, with `mime_lite`, its gradient."""
    if not isinstance(config.optimizer, schema.MimeLite):
        return list(model.weights)
    gradients = [WeightSpec(f"gradient of {weight.name}", weight.shape) for weight in model.weights]
    return [*model.weights, *gradients]


class _Sizes(NamedTuple):
    """Bits of what goes along with one tensor. Parameters that decoding needs before the sum return with the message;
    clients need those after the sum, too, if they have to decode."""

    to_encode: int
    before_sum: int
    after_sum: int
    encoded: int
    told: int  # for the encoder's state
    coded: bool  # whether a lossless code's bits come on top


@functools.lru_cache(maxsize=128)  # tracing a quantizer takes 0.1 s
def _sizes(label: str, shape: tuple[int, ...], encoder: te.core.Encoder) -> _Sizes:
    gathered = tree.gather(label, encoder, tf.TensorSpec(shape, tf.float32))
    with tf.Graph().as_default():  # no arithmetic
        parameters = gathered.get_params(gathered.initial_state())
        encoded, told = gathered.encode(tf.zeros(shape), parameters[0])
    fixed, has_codes = _fixed_bits(encoded)
    return _Sizes(*map(coded.plain_bits, parameters), fixed, coded.plain_bits(told), has_codes)


def _fixed_bits(encoded: coded.EncodedTensor) -> tuple[int, bool]:
    """(bits of an encoded tensor but for its lossless codes' bytes, whether there are such codes)"""
    fixed = [tensor for key, tensor in encoded.items() if not coded.is_symbols(key)]
    return coded.plain_bits(fixed), len(fixed) < len(encoded)


def notes(config: schema.Config, plan: Plan) -> list[str]:
    """What a person should know before training: directions in which the plan encodes nothing, what clients keep."""
    lines = _silent_directions(config, plan)
    packing = getattr(config.encoder, "packing", "dense")
    if packing != "dense" and (config.schedule.name != "constant" or config.code.name != "none"):
        what = f"schedule={config.schedule.name}" if config.code.name == "none" else f"code={config.code.name}"
        lines.append(f"{what} packs in its own way; encoder.packing={packing} has no effect.")
    kept = sum(tensor.float32_bits for tensor in plan.uplink if tensor.encoder != tree.IDENTITY)
    if config.encoder.error_feedback and kept:
        size = f"{kept / 8 / 2**20:.1f} MiB"
        lines.append(f"Error feedback: each client that has taken part keeps {size}, in memory and in checkpoints.")
    if plan.receivers != plan.clients:
        lines.append(f"The downlink sends differences: each goes to all {plan.receivers} clients of the data set.")
    return lines


def _silent_directions(config: schema.Config, plan: Plan) -> list[str]:
    directions = {"encoder": plan.uplink, "downlink": plan.downlink}
    silent = [
        group
        for group, tensors in directions.items()
        if all(t.encoder.removesuffix(", difference") == tree.IDENTITY for t in tensors)
    ]
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
