"""A sweep's command line up to its check, in process: all that happens before anything is written."""

from __future__ import annotations

import functools
from collections.abc import Callable

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf

from fedsweep import cli, composing
from fedsweep.sweep import check


def request(*arguments: str) -> check.Request:
    """What Hydra hands over for `python -m fedsweep -m ARGUMENTS`."""
    setup_globals()
    with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        base = loader.load_configuration("config", ["hydra.mode=MULTIRUN", *arguments], RunMode.MULTIRUN)

    def compose(overrides):
        config = loader.load_sweep_config(base, list(overrides))
        return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])

    parse: Callable = functools.partial(composing.parse, loader=loader)
    overrides = parse(OmegaConf.to_container(base.hydra.overrides.task, resolve=False))
    grids = check.parse_grids(base.sweep, parse)
    return check.Request(overrides, grids, compose, base.hydra.sweep.dir, base, None, None)


def sweep(*arguments: str) -> check.Checked:
    """The checked sweep of `python -m fedsweep -m ARGUMENTS`."""
    return check.check(request(*arguments))
