"""`python -m fedsweep`: one run, or a sweep with -m. Nothing heavy is imported before the configuration is checked."""

from __future__ import annotations

import signal

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fedsweep import cli, interrupts, schema


@hydra.main(version_base="1.3", config_path=cli.config_folder(), config_name="config")
def run(composed: DictConfig) -> dict:
    """Hydra's task function: one run in the folder that Hydra made for it. Returns what result.json holds."""
    from fedsweep import job

    place = HydraConfig.get()
    cli.mask_hydras(place)
    if place.mode == RunMode.MULTIRUN:
        overrides = OmegaConf.to_container(place.overrides.task, resolve=False)  # as they were written
        return job.run_launched(schema.check(composed), overrides, place.runtime.output_dir, place.sweep.dir)
    with cli.one_line_errors():  # here already: past this function Hydra adds lines of its own
        cli.refuse_chdir(place)
        return job.run_single(schema.check(composed), place.runtime.output_dir)


def main() -> None:
    # All end a run as Ctrl-C does: recorded, nothing left running. What nohup and the background ignore stays so.
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    interrupts.handle(*(kind for kind in kinds if signal.getsignal(kind) is not signal.SIG_IGN))
    with cli.one_line_errors():
        cli.refuse_options()
        run()


if __name__ == "__main__":
    main()
