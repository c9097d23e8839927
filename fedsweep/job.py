"""What Hydra's task function does: one run by itself, or one trial of a sweep."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path

from omegaconf import DictConfig

from fedsweep import environment, schema, sweep
from fedsweep.errors import UserError
from fedsweep.tracking import run_folder


def run_single(composed: DictConfig, folder: str) -> dict:
    """A run by itself: anything that goes wrong ends the program.

    Hydra makes the folder before it calls us; a run that is refused leaves no empty one behind.
    """
    place = Path(folder)
    try:
        config = schema.check(composed)
        run_folder.refuse_used(place)
        environment.configure(config.runtime)  # before TensorFlow is imported
        from fedsweep import trial

        result = trial.run(config, place, name="run")
    except BaseException:
        if place.parent.name == "runs":  # the default place; a folder that the user named stays as it is
            with contextlib.suppress(OSError):  # it holds a run
                place.rmdir()
        raise
    sweep.show([sweep.Row({"run": place.name}, result)])
    print(f"Files: {place}")
    if result["status"] != "complete":
        raise UserError(f"{result['status']}: {result['error']}; its rounds are in {place}")
    return result


def run_trial(config: schema.Config, number: int, folder: str, sweep_folder: str) -> dict:
    """Trial `number` of a sweep: what goes wrong is recorded in its folder, and the sweep goes on."""
    environment.configure(config.runtime)
    from fedsweep import trial

    place, record = Path(folder), sweep.Record.read(Path(sweep_folder))
    try:
        return trial.run(config, place, record.title(number), record.mlflow_run_id)
    except Exception as error:
        place.mkdir(parents=True, exist_ok=True)
        (place / "error.txt").write_text(environment.masked(traceback.format_exc()))
        return sweep.record_failure(place, error)
    finally:
        sweep.write_trials(Path(sweep_folder), record)
