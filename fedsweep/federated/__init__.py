"""The TFF learning process: client work, aggregation (uplink), distribution (downlink), server optimizer."""

from fedsweep.federated.process import build

__all__ = ["build"]
