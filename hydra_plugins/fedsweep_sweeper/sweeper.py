"""The shim that Hydra discovers; the work is done in `fedsweep.sweep`."""

from __future__ import annotations

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="fedsweep",
    node={"_target_": f"{__name__}.FedsweepSweeper", "max_batch_size": None, "params": None},
    provider="fedsweep",
)


class FedsweepSweeper(BasicSweeper):
    """Hydra's basic sweeper with every point checked before the first is run, and the sweep on record."""

    def sweep(self, arguments: list[str]) -> Any:
        from fedsweep import cli, sweep
        from fedsweep.errors import UserError

        cli.refuse_chdir(self.config.hydra)
        place = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        if place["subdir"] != "${hydra.job.num}":
            raise UserError(f"hydra.sweep.subdir={place['subdir']}: must stay ${{hydra.job.num}}, the trial's number")
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        (points,) = self.split_arguments(overrides, max_batch_size=None)
        if not points:
            raise UserError(f"{' '.join(arguments)}: the sweep has no point")
        swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
        composed = [loader.load_sweep_config(self.config, point) for point in points]
        composed = [OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]) for config in composed]
        with sweep.on_record(self.config.hydra.sweep.dir, swept, points, composed):
            return super().sweep(arguments)
