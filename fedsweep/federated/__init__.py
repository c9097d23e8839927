"""Federated averaging: client work, aggregation (uplink), distribution (downlink), server optimizer."""

from fedsweep.federated.process import PARTS, Form, build, form, graph_key, seeded

__all__ = ["PARTS", "Form", "build", "form", "graph_key", "seeded"]
