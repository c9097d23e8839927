"""Runtimes: they execute federated averaging round by round and say what crossed the wire.

`start(config, model)` gives one of two that share an interface (`Runtime`): in this process, or in TFF's own executor.
"""

from __future__ import annotations

from fedsweep import environment, federated, schema
from fedsweep.models import Model
from fedsweep.runtime.base import NotFiniteError, RoundOutcome, Runtime

__all__ = ["NotFiniteError", "RoundOutcome", "Runtime", "start"]

# Graphs by what they depend on, for the next run in this process: tracing takes seconds. Few, because a process that
# runs trial after trial meets equal ones soon (the next replicate) or never.
_KEPT = 2
_graphs: dict[str, object] = {}


def start(config: schema.Config, model: Model, population: int) -> Runtime:
    """The runtime that the configuration names, with its graphs and its initial state made.

    `population`: the number of clients in the data set.
    """
    if isinstance(config.runtime, schema.TffRuntime):
        from fedsweep.runtime.tff_executor import TffRuntime

        return TffRuntime(federated.build(config, model), population)
    from fedsweep.runtime.map_reduce import Graphs, MapReduceRuntime

    key = federated.graph_key(config, model)
    graphs = _graphs.pop(key, None) or Graphs(_form(config, model, key))
    while len(_graphs) >= _KEPT:
        del _graphs[next(iter(_graphs))]  # the one used longest ago
    _graphs[key] = graphs
    state = federated.seeded(graphs.initial_state, graphs.state_paths, config.seed, model)
    threads, drop = environment.threads(config.runtime), config.on_bad_update == "drop"
    return MapReduceRuntime(graphs, state, threads, population, config.verify_wire, drop)


def _form(config: schema.Config, model: Model, key: str) -> federated.Form:
    """The graphs of a round: from disk, if a process has kept them there."""
    from fedsweep.runtime import disk

    # Code that is not ours can change under the same key.
    ours = model.logits.__module__.startswith("fedsweep.") and config.model.name != "keras"
    kept = ours and "custom" not in (config.encoder.name, config.downlink_encoder.name)
    form = disk.read(key) if kept else None
    if form is None:
        form = federated.form(config, model)
        if kept:
            disk.write(key, form)
    return form
