"""What a process does with one run: a run by itself, or one of a sweep."""

from __future__ import annotations

import contextlib
import shlex
import sys
import traceback
from pathlib import Path

from fedsweep import environment, importing, schema, secrets, shown
from fedsweep.errors import NotWritten, UserError
from fedsweep.files import refuse_used, write_atomically
from fedsweep.progress import Progress, RunProgress
from fedsweep.sweep import table
from fedsweep.sweep.engine import Run
from fedsweep.sweep.lock import locked
from fedsweep.sweep.record import Record, record_failure
from fedsweep.tracking import close, run_folder


def run_single(config: schema.Config, folder: str) -> dict:
    """A run by itself: anything that goes wrong ends the program.

    Hydra makes the folder before it calls us; a run that is refused leaves no empty one behind.
    """
    place = Path(folder)
    try:
        if config.replicates != 1:
            raise UserError(f"replicates={config.replicates}: a single run has one seed; add -m for a sweep")
        if config.sweep.dry_run:
            raise UserError("sweep.dry_run=true: shows the trials of a sweep; add -m, or use python -m fedsweep.plan")
        if config.sweep.resume:
            raise UserError(f"sweep.resume={config.sweep.resume}: goes on with a sweep; add -m")
        refuse_used(place, run_folder.FILES)
        environment.configure(config.runtime)  # before TensorFlow is imported
        with importing.quickly():
            from fedsweep import trial

        progress = RunProgress("run", config.rounds)
        try:
            with locked(place, "run"), close.watched(config.tracker):
                result = trial.run(config, place, "run", progress)
        finally:
            _say_untracked(config, place, progress.lost)
    except BaseException:
        if place.parent.name == "runs":  # the default place; a folder that the user named stays as it is
            with contextlib.suppress(OSError):  # it holds a run
                place.rmdir()
        raise
    table.show([table.Row({"run": place.name}, result)])
    print(f"Files: {place}")
    if result["status"] != "complete":
        raise UserError(f"{result['status']}: {result['error']}; its rounds are in {place}")
    return result


def _say_untracked(config: schema.Config, folder: Path, lost: list[str]) -> None:
    """The last word on what trackers could not be told."""
    if lost:
        sync = f"python -m fedsweep.tracking.sync {shlex.quote(str(folder))}"
        hint = f"; {sync} brings it to MLflow" if config.tracker.mlflow else ""
        print(f"fedsweep: a tracker was not told: {'; '.join(lost)}{hint}", file=sys.stderr)


def run_launched(config: schema.Config, overrides: list[str], folder: str, sweep_folder: str) -> dict:
    """A run of a sweep in a process that a launcher of Hydra's has chosen; its folder says which run it is."""
    place, sweep = Path(folder).resolve(), Path(sweep_folder).resolve()
    record = Record.read(sweep)
    trial, *replicate = map(int, place.relative_to(sweep).parts)
    values = [override for override in overrides if override.partition("=")[0] in record.space]
    point = shown.point(dict(override.split("=", 1) for override in values))
    told = (f"{key}={value}" for key, value in point.items())
    title = " ".join([f"trial {trial}", *told, *(f"replicate {k}" for k in replicate)])
    run = Run(trial, *(replicate or [0]), title, config, place, sweep, point)
    return run_trial(run, RunProgress(title, config.rounds))


def run_trial(run: Run, progress: Progress) -> dict:
    """A run of a sweep: what goes wrong is recorded in its folder, and the sweep goes on.

    Raises:
      NotWritten: the folder cannot be written; neither can those of the other runs.
    """
    environment.configure(run.config.runtime)
    with importing.quickly():
        from fedsweep import trial

    try:
        record = Record.read(run.sweep)
        place = trial.Place(
            run.sweep.name, record.mlflow_run_id, run.trial, run.replicate, run.point, _pruner(run, record)
        )
        return trial.run(run.config, run.folder, run.title, progress, place)
    except NotWritten:  # no fault of the run's: it goes on when the disk has room
        raise
    except Exception as error:
        result = record_failure(run.folder, " ".join(traceback.format_exception_only(error)[-1].split()))
        with contextlib.suppress(OSError):  # a full disk, say: the result is what counts
            write_atomically(run.folder / "error.txt", secrets.masked(traceback.format_exc()))
        return result


def plan(config: schema.Config) -> dict:
    """What the configuration sends, tensor by tensor (`Plan.as_dict`)."""
    environment.configure(config.runtime)
    with importing.quickly():
        from fedsweep import datasets, models
        from fedsweep.federated import plan as planning

    model = models.build(config.model, datasets.spec(config.dataset))
    return planning.of(config, model, lambda: datasets.population(config.dataset, config.seed)).as_dict()


def _pruner(run: Run, record: Record):
    """The pruner, with what the trials reached that this one may know: the same ones whatever ran when."""
    settings = run.config.sweep
    if not isinstance(settings.pruner, schema.DominancePruner):
        return None
    from fedsweep.pruning import DominancePruner

    known = range(run.trial - settings.in_flight + 1)
    folders = [run.sweep / record.run_folder(trial, run.replicate) for trial in known]
    return DominancePruner(settings.pruner, [run_folder.read_rounds(folder / "rounds.csv") for folder in folders])
