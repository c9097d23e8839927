"""Schedules: into how many levels a tensor is quantized, round by round or client by client.

A schedule is a few pure functions around a small state at the server. What clients observe is summed over the clients
of a round (each sum costs a client 32 bits a tensor on the uplink); what `parameters` gives goes down to each client.
L levels (the steps between the lowest and the highest symbol) need ceil(log2(L + 1)) bits an element.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Protocol

import tensorflow as tf

from fedsweep.encoders import randomness

Tensors = Mapping[str, tf.Tensor]
MAX_LEVELS = 2**16 - 1


class Schedule(Protocol):
    text: str  # its settings, for plans
    sums: tuple[str, ...]  # names of what clients observe

    def initial_state(self) -> Tensors: ...

    def parameters(self, state: Tensors) -> Tensors:
        """What the clients of a round receive."""

    def levels(self, x: tf.Tensor, parameters: Tensors) -> tf.Tensor:
        """int32 scalar in 1 to MAX_LEVELS, for this client's tensor (float32 [n])."""

    def observed(self, x: tf.Tensor) -> Tensors:
        """What this client contributes to the sums, float32 scalars."""

    def update(self, state: Tensors, sums: Tensors) -> Tensors:
        """The next round's state."""


class _FollowsLoss:
    """What schedules that the server decides from the clients' loss have in common."""

    sums = ("weighted_loss", "weight")

    def levels(self, x, parameters):
        del x  # the server has decided
        return parameters["levels"]

    def observed(self, x):
        del x  # of the client, not of the tensor
        client = randomness.client()
        weight = tf.cast(client.examples * client.loss_weight, tf.float32)
        return collections.OrderedDict(weighted_loss=weight * client.loss, weight=weight)


class FallingLoss(_FollowsLoss):
    """More levels as the loss falls: s_k = s_0 sqrt(f(w_0) / f(w_k)), s_0 = 2^bits - 1.

    Jhunjhunwala et al. (AdaQuantFL), ICASSP 2021, arXiv 2102.04487. f is the clients' mean training loss of the last
    round, weighted by examples.
    """

    def __init__(self, bits: int):
        self.text, self._levels = f"falling loss from {bits} bit", float(2**bits - 1)

    def initial_state(self):
        return collections.OrderedDict(first=tf.constant(0.0), last=tf.constant(0.0))

    def parameters(self, state):
        fall = state["first"] / tf.maximum(state["last"], 1e-30)
        growth = tf.where(state["first"] > 0, tf.sqrt(fall), 1.0)  # 1 in the first round
        return collections.OrderedDict(levels=_whole(self._levels * growth))

    def update(self, state, sums):
        loss = tf.math.divide_no_nan(sums["weighted_loss"], sums["weight"])
        return collections.OrderedDict(first=tf.where(state["first"] > 0, state["first"], loss), last=loss)


class Plateau(_FollowsLoss):
    """Twice as many levels, a bit more, whenever the smoothed loss has not fallen for `patience` rounds.

    Hoenig et al. (DAdaQuant), ICML 2022, arXiv 2111.00465: the smoothed loss is an exponential average,
    and after a step the next one waits for `patience` rounds.
    """

    def __init__(self, bits: int, patience: int, smoothing: float):
        self.text = f"from {bits} bit, one more when the loss stalls for {patience} rounds, smoothed by {smoothing}"
        self._start, self._patience, self._smoothing = 2**bits - 1, patience, smoothing

    def initial_state(self):
        return collections.OrderedDict(
            levels=tf.constant(self._start, tf.int32),
            smoothed=tf.zeros([self._patience + 1]),  # the last rounds', oldest first
            rounds=tf.constant(0, tf.int32),  # since the last step
        )

    def parameters(self, state):
        return collections.OrderedDict(levels=state["levels"])

    def update(self, state, sums):
        loss = tf.math.divide_no_nan(sums["weighted_loss"], sums["weight"])
        before = state["smoothed"][-1]
        begun = before > 0  # the first loss is its own average
        smoothed = tf.where(begun, self._smoothing * before + (1 - self._smoothing) * loss, loss)
        history = tf.concat([state["smoothed"][1:], smoothed[tf.newaxis]], 0)
        rounds = state["rounds"] + 1
        stalled = tf.logical_and(rounds > self._patience, history[-1] >= history[0])
        levels = tf.minimum(state["levels"] * tf.where(stalled, 2, 1), MAX_LEVELS)
        return collections.OrderedDict(levels=levels, smoothed=history, rounds=tf.where(stalled, 0, rounds))


class UpdateRange:
    """Levels for each client and tensor by the range of its update: range / resolution, rounded up.

    Fewer as training settles. The range is that of what is quantized: after a rotation, of the rotated tensor. Qu et
    al. (FedDQ), 2021, arXiv 2110.02291. No state, nothing observed.
    """

    sums = ()

    def __init__(self, resolution: float):
        self.text, self._resolution = f"range by {resolution}", resolution

    def initial_state(self):
        return collections.OrderedDict()

    def parameters(self, state):
        del state  # none
        return collections.OrderedDict()

    def levels(self, x, parameters):
        del parameters  # none
        # The client has multiplied its update by its weight; the resolution is that of the update.
        spread = tf.math.divide_no_nan(tf.reduce_max(x) - tf.reduce_min(x), randomness.client().examples)
        return _whole(tf.math.ceil(spread / self._resolution))

    def observed(self, x):
        del x  # nothing
        return collections.OrderedDict()

    def update(self, state, sums):
        del sums  # none
        return state


class ClientWeight:
    """More levels for clients with more weight: q_i = w_i^(2/3) sqrt(a / b), a = sum w^(2/3), b = sum w^2 / q^2.

    The expected error is that of q = 2^bits - 1 levels for all, for fewer bits. Hoenig et al. (DAdaQuant), ICML 2022,
    arXiv 2111.00465. A client knows its own weight only, so a and b are the last round's; in the first one
    all clients use q.
    """

    sums = ("weight_to_two_thirds", "weight_squared")

    def __init__(self, bits: int):
        self.text, self._levels = f"by client weight around {bits} bit", float(2**bits - 1)

    def initial_state(self):
        return collections.OrderedDict(factor=tf.constant(0.0))

    def parameters(self, state):
        return collections.OrderedDict(factor=state["factor"])

    def levels(self, x, parameters):
        del x  # by the client
        factor = parameters["factor"]
        return _whole(tf.where(factor > 0, factor * randomness.client().examples ** (2 / 3), self._levels))

    def observed(self, x):
        del x  # of the client, not of the tensor
        weight = tf.cast(randomness.client().examples, tf.float32)
        return collections.OrderedDict(weight_to_two_thirds=weight ** (2 / 3), weight_squared=weight**2)

    def update(self, state, sums):
        del state  # the last round's alone
        ratio = tf.math.divide_no_nan(sums["weight_to_two_thirds"], sums["weight_squared"])
        return collections.OrderedDict(factor=self._levels * tf.sqrt(ratio))


def _whole(levels: tf.Tensor) -> tf.Tensor:
    """The nearest whole number of levels within 1 to MAX_LEVELS."""
    return tf.cast(tf.clip_by_value(tf.round(levels), 1.0, float(MAX_LEVELS)), tf.int32)
