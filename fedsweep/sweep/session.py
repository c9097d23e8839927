"""A sweep from start to end: its folder, its lock, its run at the tracker, its last word."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

from fedsweep import environment, job, schema, secrets, tracking
from fedsweep.composing import literal
from fedsweep.errors import NotWritten, SweepFailed, UserError
from fedsweep.files import claim, refuse_used, write_atomically
from fedsweep.sweep import check, report, resume, table
from fedsweep.sweep import record as records
from fedsweep.sweep.board import Board
from fedsweep.sweep.check import Checked, Request
from fedsweep.sweep.engine import Engine, Run, at_once
from fedsweep.sweep.lock import locked
from fedsweep.sweep.record import Record
from fedsweep.sweep.workers import Pool, count
from fedsweep.tracking import close
from fedsweep.tracking.run_folder import is_over, trusted_result

if TYPE_CHECKING:  # heavy
    from fedsweep.tracking.mlflow_tracker import Parent

_FEW = 3  # runs of which it is said what their trackers lost


def run(request: Request) -> None:
    """Runs the sweep that Hydra has parsed.

    Raises:
      UserError: something is wrong; nothing has been written.
      SweepFailed: at the end, if more trials failed than `sweep.max_failures`, or none completed.
      KeyboardInterrupt: after Ctrl-C; `sweep.resume=latest` goes on.
    """
    checked = check.check(request)
    folder, record = _place(checked)
    if checked.settings.dry_run:
        engine = _engine(checked, folder, record, job.plan)
        while engine.may_draw():
            engine.draw()
        table.show_plans(engine)
        return
    with contextlib.ExitStack() as stack:
        if checked.settings.resume:
            stack.enter_context(locked(folder))
        pool = stack.enter_context(_pool(checked, record))  # early: TensorFlow loads while the tracker is opened
        tracking.check(checked.first)
        if not checked.settings.resume:
            from fedsweep.sweep import study

            study.refuse_used(checked.settings.storage, folder.name)
            folder.mkdir(parents=True, exist_ok=True)
            claim(folder / records.SWEEP, record.as_yaml())
            stack.enter_context(locked(folder))
        stack.enter_context(close.watched(checked.first.tracker))
        record, parent = stack.enter_context(_parent(folder, record, checked))
        _run(checked, _engine(checked, folder, record, pool.plan if pool else job.plan), pool, parent)


def _run(checked: Checked, engine: Engine, pool: Pool | None, parent: Parent | None) -> None:
    hydras = engine.folder / "multirun.yaml"
    if not hydras.exists():
        multirun = OmegaConf.to_container(checked.request.multirun, enum_to_str=True)
        secrets.learn(multirun)  # Hydra's own part, of experiment files say
        write_atomically(hydras, OmegaConf.to_yaml(OmegaConf.create(secrets.masked_tree(multirun))))
    try:
        if pool:
            with Board(engine.record, pool.size) as board:
                board.say(f"{engine.folder}: {pool.size} workers with {pool.threads} threads each")
                pool.work(engine, board)
        else:
            _launch(checked, engine)
    finally:
        engine.close()
        engine.write()
        table.show_trials(engine.trials)
        print(f"Files: {engine.folder / records.TRIALS}")
        untracked = pool.untracked if pool else []
        if untracked:
            more = [f"and {len(untracked) - _FEW} more, in log.txt of each run"] if len(untracked) > _FEW else []
            print(f"fedsweep: a tracker was not told: {'; '.join([*untracked[:_FEW], *more])}", file=sys.stderr)
    if parent and (untracked or not pool):  # what a launcher's processes could not deliver, nobody has reported
        parent.sync(engine.folder, engine.record, engine.trials, None)
        engine.write()
    report.make(engine, parent)
    _judge(engine, checked.settings)


def _place(checked: Checked) -> tuple[Path, Record]:
    """The sweep's folder, new or found, and the record to go on with. Writes nothing."""
    settings, wanted = checked.settings, Path(checked.request.folder)
    if settings.resume:
        folder = resume.find(settings.resume, wanted)
        resume.tell_other_store(folder, checked.first.tracker)
        return folder, resume.merge(Record.read(folder), checked.record, settings.extend, checked.follows)
    if settings.extend:
        raise UserError("sweep.extend=true: extends a sweep that is there; add sweep.resume=latest, or its folder")
    names = (records.SWEEP, records.TRIALS, "multirun.yaml", *map(str, range(checked.record.n_trials)))
    refuse_used(wanted, names)
    return wanted, checked.record


@contextlib.contextmanager
def _parent(folder: Path, record: Record, checked: Checked) -> Iterator[tuple[Record, Parent | None]]:
    """The record with the id of MLflow's run of the sweep, on disk; that run, closed however the sweep ends."""
    record.write(folder)
    if not checked.first.tracker.mlflow:
        yield record, None
        return
    from fedsweep.tracking.mlflow_tracker import Parent

    former = record.mlflow_run_id
    parent = Parent(checked.first.tracker, folder, record, environment.git_commit(), sys.argv[1:])
    record, status = parent.record, "failed"
    try:
        if checked.settings.resume:
            parent.sync(folder, record, records.begun_trials(folder, record, trusted_result), former)
        yield record, parent
        status = "complete"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        parent.close(status)
        if parent.lost:
            print(
                f"fedsweep: MLflow lacks some of this sweep: {'; '.join(parent.lost)};"
                f" python -m fedsweep.tracking.sync {shlex.quote(str(folder))} brings it there",
                file=sys.stderr,
            )


def _engine(checked: Checked, folder: Path, record: Record, bits: Callable[[schema.Config], dict]) -> Engine:
    """The engine of the sweep; of a dry run with a study that is nowhere kept."""
    from optuna.storages import InMemoryStorage

    from fedsweep.sweep import study

    dry = checked.settings.dry_run
    storage = InMemoryStorage() if dry else checked.settings.storage or study.journal(folder / study.JOURNAL)
    dimensions = check.dimensions(checked, record)
    drawn = records.drawn(folder, record) if record.points is None else []
    searched = study.Study(folder.name, storage, dimensions, checked.settings, checked.first.seed, drawn)
    return Engine(folder, record, checked.settings, searched, checked.config, bits, dry)


def _pool(checked: Checked, record: Record) -> contextlib.AbstractContextManager[Pool | None]:
    """Workers of our own, unless a launcher of Hydra's was chosen."""
    if checked.request.launch:
        return contextlib.nullcontext()
    threads = getattr(checked.first.runtime, "threads", None)
    workers = count(checked.settings, threads, at_once(record, checked.settings))
    return Pool(workers, threads or max(1, len(os.sched_getaffinity(0)) // workers), checked.settings)


def _launch(checked: Checked, engine: Engine) -> None:
    """Runs the trials through a launcher of Hydra's, batch by batch."""
    while not engine.done:
        runs = []
        while engine.may_draw() and (checked.request.batch is None or len(runs) < checked.request.batch):
            runs += engine.runs(engine.draw())
        for run in runs:
            engine.begin(run)
        for _ in range(checked.settings.retries + 1):
            if not (left := [run for run in runs if not is_over(trusted_result(run.folder))]):
                break
            errors = _launch_batch(checked, engine, left)
        for run in runs:
            result = trusted_result(run.folder)
            engine.finish(run, result if is_over(result) else records.record_failure(run.folder, errors[run.folder]))


def _launch_batch(checked: Checked, engine: Engine, runs: Sequence[Run]) -> dict[Path, str]:
    """Launches the runs once; by folder what to say of one that is not over."""
    try:
        errors = checked.request.launch([_arguments(checked, engine, run) for run in runs])
    except NotWritten:
        for run in runs:
            engine.finish(run, trusted_result(run.folder))
        raise
    except Exception as error:  # a launcher that lost a process loses the batch
        errors = [" ".join(f"{type(error).__name__}: {error}".split())] * len(runs)
    except KeyboardInterrupt:
        for run in runs:
            engine.finish(run, trusted_result(run.folder))
        raise
    return {run.folder: error or "its process left no result" for run, error in zip(runs, errors, strict=True)}


def _arguments(checked: Checked, engine: Engine, run: Run) -> list[str]:
    """A run as overrides; its folder tells the task function which run it is."""
    seed = [f"seed={run.config.seed}"] if engine.record.replicates > 1 else []
    sweep = QuotedString(literal(str(run.sweep)), Quote.single).with_quotes()
    place = [f"hydra.sweep.dir={sweep}", f"hydra.sweep.subdir={run.folder.relative_to(run.sweep)}"]
    return [*checked.space.arguments(engine.trials[run.trial].point), *seed, *place]


def _judge(engine: Engine, settings: schema.Sweep) -> None:
    """Raises if the sweep as a whole has failed."""
    own = [trial for trial in engine.trials if not trial.twin]
    failed = [trial for trial in own if trial.status == "failed"]
    if len(failed) > settings.max_failures:
        first = failed[0]
        raise SweepFailed(f"{len(failed)} of {len(engine.trials)} trials failed; trial {first.number}: {first.error}")
    if not any(trial.status == "complete" for trial in own):
        raise SweepFailed(f"no trial completed; trial 0: {own[0].status}, {own[0].error}")
