"""The shim that Hydra discovers; the work is done in `fedsweep.sweep`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.fedsweep_sweeper.launcher import FedsweepLocalLauncher

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="fedsweep",
    node={"_target_": f"{__name__}.FedsweepSweeper", "params": None},
    provider="fedsweep",
)


class FedsweepSweeper(Sweeper):
    """Hands Hydra's parsed line, its way to compose a configuration and its launcher to `fedsweep.sweep.session`."""

    def __init__(self, params: Mapping[str, Any] | None):
        self._params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._loader, self._config = hydra_context.config_loader, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from fedsweep import cli, composing
        from fedsweep.sweep import check, session

        cli.refuse_chdir(self._config.hydra)
        cli.refuse_subdir(self._config.hydra)
        params = [f"{key}={value}" for key, value in self._params.items()]
        parse = functools.partial(composing.parse, loader=self._loader)
        overrides = parse([*params, *arguments])
        own = isinstance(self._launcher, FedsweepLocalLauncher)
        session.run(
            check.Request(
                overrides,
                check.parse_grids(self._config.sweep, parse),
                self._compose,
                folder=self._config.hydra.sweep.dir,
                multirun=self._config,
                launch=None if own else self._launch,
                batch=1 if isinstance(self._launcher, BasicLauncher) else None,  # it runs one after another anyway
            )
        )

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        config = self._loader.load_sweep_config(self._config, list(overrides))
        return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])

    def _launch(self, overrides: Sequence[Sequence[str]]) -> list[str | None]:
        from fedsweep.errors import NotWritten

        returned = self._launcher.launch(overrides, initial_job_idx=0)
        for one in returned:
            if isinstance(one._return_value, NotWritten):  # the other runs' folders cannot be written either
                raise one._return_value
        # a return's `return_value` raises what its run raised
        return [None if one.status == JobStatus.COMPLETED else repr(one._return_value) for one in returned]
