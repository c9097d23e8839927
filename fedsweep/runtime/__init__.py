"""Runtimes: they execute a TFF learning process round by round and say what crossed the wire.

`start(config, model)` gives one of two that share an interface (`Runtime`): in this process,
or in TFF's own executor.
"""

from __future__ import annotations

from fedsweep import environment, federated, schema
from fedsweep.models import Model
from fedsweep.runtime.base import NotFiniteError, RoundOutcome, Runtime

__all__ = ["NotFiniteError", "RoundOutcome", "Runtime", "start"]

# Compiled processes by what they depend on, for the next run in this process: compiling takes seconds. Few, because a
# process that runs trial after trial meets an equal one soon (the next replicate) or never.
_KEPT = 2
_compiled: dict[str, object] = {}


def start(config: schema.Config, model: Model, population: int) -> Runtime:
    """The runtime that the configuration names, with the process compiled and its initial state made.

    `population`: the number of clients in the data set.
    """
    if isinstance(config.runtime, schema.TffRuntime):
        from fedsweep.runtime.tff_executor import TffRuntime

        return TffRuntime(federated.build(config, model), population)
    from fedsweep.runtime.map_reduce import CompiledProcess, MapReduceRuntime

    key = federated.graph_key(config, model)
    process = _compiled.pop(key, None) or CompiledProcess(_form(config, model, key))
    while len(_compiled) >= _KEPT:
        del _compiled[next(iter(_compiled))]  # the one used longest ago
    _compiled[key] = process
    state = federated.seeded(process.initial_state, process.state_paths, config.seed, model)
    return MapReduceRuntime(process, state, environment.threads(config.runtime), population, config.verify_wire)


def _form(config: schema.Config, model: Model, key: str) -> federated.Form:
    """The compiled process: from disk, if a process has kept it there."""
    from fedsweep.runtime import compiled

    # Code that is not ours can change under the same key.
    ours = model.logits.__module__.startswith("fedsweep.") and config.model.name != "keras"
    kept = ours and "custom" not in (config.encoder.name, config.downlink_encoder.name)
    form = compiled.read(key) if kept else None
    if form is None:
        form = federated.form(config, model)
        if kept:
            compiled.write(key, form)
    return form
