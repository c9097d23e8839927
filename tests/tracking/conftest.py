"""One real sweep, tracked, for all tests of tracking."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (
    "-m", "rounds=2", "evaluate_every=1", "model=2nn", "clients_per_round=3", "encoder.threshold=1000",
    "encoder=uniform,identity", "encoder.bits=2,4", "dataset.validation_fraction=0.2", "tracker=[mlflow,tensorboard]",
    "hydra.sweep.dir=multirun_outputs/seen",
)  # fmt: skip


@pytest.fixture(scope="session")
def tracked(made_once, migrated_database) -> Path:
    """The folder of the sweep; beside it lies its store, and above both what it printed. Tests leave it as it is."""

    def sweep(place: Path) -> None:
        (place / "multirun_outputs").mkdir()
        shutil.copy(migrated_database, place / "multirun_outputs" / "mlflow.db")
        done = subprocess.run([sys.executable, "-m", "fedsweep", *COMMAND], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (place / "printed").write_text(done.stdout)

    return made_once("tracked", sweep) / "multirun_outputs" / "seen"
