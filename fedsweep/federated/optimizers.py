"""TFF's optimizers on clients and server."""

from __future__ import annotations

import tensorflow_federated as tff

from fedsweep import schema


def client(config: schema.Optimizer) -> tff.learning.optimizers.Optimizer:
    """SGD on every client, for all optimizers of the group."""
    return tff.learning.optimizers.build_sgdm(config.client_lr)


def server(config: schema.Optimizer) -> tff.learning.optimizers.Optimizer:
    """FedAvg: SGD; FedAvgM: SGD with momentum; FedAdam: Adam. The mean update stands for the gradient."""
    if isinstance(config, schema.Adam):
        return tff.learning.optimizers.build_adam(config.server_lr, config.beta_1, config.beta_2, config.epsilon)
    if isinstance(config, schema.Momentum):
        return tff.learning.optimizers.build_sgdm(config.server_lr, config.momentum)
    return tff.learning.optimizers.build_sgdm(config.server_lr)
