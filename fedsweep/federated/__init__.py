"""The TFF learning process: client work, aggregation (uplink), distribution (downlink), server optimizer."""

from fedsweep.federated.process import Form, build, form, graph_key, seeded

__all__ = ["Form", "build", "form", "graph_key", "seeded"]
