"""Runtimes: they execute a TFF learning process round by round and say what crossed the wire.

`start(config.runtime, process)` gives one of two that share an interface (`Runtime`): in this process through the
MapReduceForm, or in TFF's own executor.
"""

from __future__ import annotations

from fedsweep import environment, schema
from fedsweep.runtime.base import RoundOutcome, Runtime

__all__ = ["RoundOutcome", "Runtime", "start"]


def start(config: schema.MapReduceRuntime | schema.TffRuntime, process) -> Runtime:
    """The runtime that the configuration names, with the process compiled and its initial state made."""
    if isinstance(config, schema.TffRuntime):
        from fedsweep.runtime.tff_executor import TffRuntime

        return TffRuntime(process)
    from fedsweep.runtime.map_reduce import MapReduceRuntime

    return MapReduceRuntime(process, environment.threads(config))
