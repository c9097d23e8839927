"""The TFF learning process: client work, aggregation (uplink), distribution (downlink), server optimizer."""

from fedsweep.federated.process import build, graph_key, seeded

__all__ = ["build", "graph_key", "seeded"]
