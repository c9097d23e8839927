"""TFF's optimizers on clients and server, and how their learning rates change over the rounds."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_federated as tff

from fedsweep import schema

_LEAST = 0.01  # of the learning rate, where an exponential schedule ends


def client(config: schema.Optimizer) -> tff.learning.optimizers.Optimizer:
    """SGD on every client, with momentum if asked for, for all optimizers of the group."""
    return tff.learning.optimizers.build_sgdm(config.client_lr, config.client_momentum or None)


def server(config: schema.Config) -> tff.learning.optimizers.Optimizer:
    """FedAvg: SGD; FedAvgM: with momentum; FedAdam, FedYogi, FedAdagrad. The mean update stands for the gradient."""
    optimizer, build = config.optimizer, tff.learning.optimizers
    rate = optimizer.server_lr
    if isinstance(optimizer, schema.Adam):
        make = build.build_yogi if optimizer.name == "fedyogi" else build.build_adam
        made = make(rate, optimizer.beta_1, optimizer.beta_2, optimizer.epsilon)
    elif isinstance(optimizer, schema.Adagrad):
        made = build.build_adagrad(rate, optimizer.initial_accumulator, optimizer.epsilon)
    elif isinstance(optimizer, schema.Momentum):
        made = build.build_sgdm(rate, optimizer.momentum)
    else:
        made = build.build_sgdm(rate)
    if not optimizer.changes("server"):
        return made
    return build.schedule_learning_rate(made, lambda rounds: rate * factor(config, "server", rounds + 1))


def factor(config: schema.Config, side: str, number: tf.Tensor) -> tf.Tensor:
    """What the learning rate of a side is multiplied by in round `number`, int32, from 1.

    It grows linearly to 1, which the last round of the warm-up has, then follows the schedule: the next round has 1
    again, and what is below falls towards the end of the run (linear and cosine would be 0 in a round more).
    """
    schedule, warmup = (getattr(config.optimizer, f"{side}_{name}") for name in ("schedule", "warmup"))
    after = tf.cast(number - 1 - warmup, tf.float32)
    share = tf.clip_by_value(after / (config.rounds - warmup), 0.0, 1.0)
    falling = {
        "constant": tf.ones_like(share),
        "linear": 1 - share,
        "cosine": (1 + tf.cos(math.pi * share)) / 2,
        "exponential": _LEAST**share,
    }[schedule]
    if not warmup:
        return falling
    return tf.where(number <= warmup, tf.cast(number, tf.float32) / warmup, falling)
