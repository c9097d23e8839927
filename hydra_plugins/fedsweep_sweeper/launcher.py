"""`hydra/launcher=fedsweep_local`: says that fedsweep's own workers run the trials (`fedsweep.sweep.workers`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

ConfigStore.instance().store(
    group="hydra/launcher",
    name="fedsweep_local",
    node={"_target_": f"{__name__}.FedsweepLocalLauncher"},
    provider="fedsweep",
)


class FedsweepLocalLauncher(Launcher):
    """The sweeper recognises it and does not ask it to launch: workers take runs one by one, a launcher in batches."""

    def setup(self, **_: Any) -> None:
        pass

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from fedsweep.errors import UserError

        raise UserError("hydra/launcher=fedsweep_local: serves hydra/sweeper=fedsweep only; choose another launcher")
