"""A sweep from start to end: its folder, its lock, its run at the tracker, its last word."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import filelock
from omegaconf import OmegaConf

from fedsweep import environment, schema
from fedsweep.errors import SweepFailed, UserError
from fedsweep.files import claim, refuse_used, write_atomically
from fedsweep.sweep import check, resume, table
from fedsweep.sweep import record as records
from fedsweep.sweep.check import Plan, Request
from fedsweep.sweep.engine import Engine, Run
from fedsweep.sweep.record import Record
from fedsweep.tracking.run_folder import UNFINISHED


def run(request: Request) -> None:
    """Runs the sweep that Hydra has parsed.

    Raises:
      UserError: something is wrong; nothing has been written.
      SweepFailed: at the end, if more trials failed than `sweep.max_failures`, or none completed.
      KeyboardInterrupt: after Ctrl-C; `sweep.resume=latest` goes on.
    """
    plan = check.check(request)
    if plan.settings.dry_run:
        engine = _engine(plan, None, plan.record)
        while engine.may_draw():
            engine.draw()
        table.show_plans(engine)
        return
    folder, record = _place(plan)
    with _locked(folder), _parent(folder, record, plan) as record:
        hydras = folder / "multirun.yaml"
        if not hydras.exists():
            write_atomically(hydras, environment.masked(OmegaConf.to_yaml(request.multirun)))
        engine = _engine(plan, folder, record)
        try:
            _launch(plan, engine) if request.launch else _work(plan, engine)
        finally:
            engine.close()
            engine.write()
            table.show_trials(engine.trials)
            print(f"Files: {folder / records.TRIALS}")
        _judge(engine, plan.settings)


def _place(plan: Plan) -> tuple[Path, Record]:
    """The sweep's folder, new or found, and the record to go on with."""
    settings, wanted = plan.settings, Path(plan.request.folder)
    if settings.resume:
        folder = resume.find(settings.resume, wanted)
        return folder, resume.merge(Record.read(folder), plan.record, settings.extend)
    if settings.extend:
        raise UserError("sweep.extend=true: extends a sweep that is there; add sweep.resume=latest, or its folder")
    names = (records.SWEEP, records.TRIALS, "multirun.yaml", *map(str, range(plan.record.n_trials)))
    refuse_used(wanted, names)
    wanted.mkdir(parents=True, exist_ok=True)
    claim(wanted / records.SWEEP, plan.record.as_yaml())
    return wanted, plan.record


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time runs a sweep; the lock of one that was killed is free."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"{folder}: another process runs this sweep; wait for it, or end it") from None
    try:
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _parent(folder: Path, record: Record, plan: Plan) -> Iterator[Record]:
    """The tracker's run of the sweep, closed however that ends; the record with its id is on disk."""
    if not isinstance(plan.first.tracker, schema.MlflowTracker):
        record.write(folder)
        yield record
        return
    from fedsweep.tracking import mlflow_store

    client, parent = mlflow_store.start_parent(plan.first.tracker, folder.name, record.mlflow_run_id)
    status = "failed"
    try:
        record = dataclasses.replace(record, mlflow_run_id=parent)
        record.write(folder)
        yield record
        status = "complete"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        mlflow_store.end(client, parent, status)


def _engine(plan: Plan, folder: Path | None, record: Record) -> Engine:
    """The engine of the sweep; of a dry run without a folder."""
    from optuna.storages import InMemoryStorage

    from fedsweep.sweep import study

    storage = InMemoryStorage()
    if folder:
        storage = plan.settings.storage or study.journal(folder / study.JOURNAL)
    dimensions = check.dimensions(plan, record)
    searched = study.Study(folder.name if folder else "dry run", storage, dimensions, plan.settings, plan.first.seed)

    def bits(config: schema.Config):
        environment.configure(config.runtime)  # before TensorFlow is imported
        from fedsweep import datasets, models
        from fedsweep.federated import plan as planning

        return planning.of(config, models.build(config.model.name, datasets.spec(config.dataset)))

    return Engine(folder, record, plan.settings, searched, plan.config, bits)


def _work(plan: Plan, engine: Engine) -> None:
    """Runs the trials in workers of our own."""
    from fedsweep.sweep.board import Board
    from fedsweep.sweep.workers import Pool, count

    record, threads = engine.record, getattr(plan.first.runtime, "threads", None)
    workers = count(plan.settings, threads, engine.at_once)
    threads = threads or max(1, len(os.sched_getaffinity(0)) // workers)
    with Board(record.n_trials, record.replicates, workers) as board, Pool(workers, threads, plan.settings) as pool:
        repeated = f" of {record.replicates} replicates" if record.replicates > 1 else ""
        board.say(f"{record.n_trials} trials{repeated}, {workers} workers, {threads} threads each: {engine.folder}")
        pool.work(engine, board)


def _launch(plan: Plan, engine: Engine) -> None:
    """Runs the trials through a launcher of Hydra's, batch by batch."""
    while not engine.done:
        runs = []
        while engine.may_draw() and (plan.request.batch is None or len(runs) < plan.request.batch):
            runs += engine.runs(engine.draw())
        if not runs:
            continue
        for run in runs:
            engine.begin(run)
        try:
            errors = plan.request.launch([_arguments(plan, engine, run) for run in runs])
        except BaseException:  # Ctrl-C: what has begun says interrupted
            for run in runs:
                engine.finish(run, records.read_result(run.folder))
            raise
        for run, error in zip(runs, errors, strict=True):
            result = records.read_result(run.folder)
            if not result or result["status"] in UNFINISHED:
                result = records.record_failure(run.folder, error or "its process left no result")
            engine.finish(run, result)


def _arguments(plan: Plan, engine: Engine, run: Run) -> list[str]:
    """A run as overrides; its folder tells the task function which run it is."""
    seed = [f"seed={run.config.seed}"] if engine.record.replicates > 1 else []
    place = [f"hydra.sweep.dir={run.sweep}", f"hydra.sweep.subdir={run.folder.relative_to(run.sweep)}"]
    return [*plan.space.arguments(engine.trials[run.trial].point), *seed, *place]


def _judge(engine: Engine, settings: schema.Sweep) -> None:
    """Raises if the sweep as a whole has failed."""
    own = [trial for trial in engine.trials if not trial.twin]
    failed = [trial for trial in own if trial.status == "failed"]
    if len(failed) > settings.max_failures:
        first = failed[0]
        raise SweepFailed(f"{len(failed)} of {len(engine.trials)} trials failed; trial {first.number}: {first.error}")
    if not any(trial.status == "complete" for trial in own):
        raise SweepFailed(f"no trial completed; trial 0: {own[0].status}, {own[0].error}")
