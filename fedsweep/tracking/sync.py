"""Makes MLflow say what a folder says: each run once, with all its metrics, below the run of its sweep.

python -m fedsweep.tracking.sync multirun_outputs/2026-01-31_10-00-00

The folder is the truth. Runs that MLflow has lost, never heard of or heard half of are made or completed; runs of the
sweep that contradict the folder, or that it does not know, are deleted there (`mlflow gc` removes them for good,
`MlflowClient.restore_run` brings them back). What agrees already stays as it is: a second call does nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedsweep import cli, schema
from fedsweep.errors import UserError
from fedsweep.secrets import MASK, masked, masked_tree, visible
from fedsweep.store import VARIABLE, chosen, default_uri, sqlite_file
from fedsweep.sweep import record as records
from fedsweep.sweep.lock import locked
from fedsweep.sweep.record import Record, Trial
from fedsweep.tracking import mlflow_run, mlflow_store, mlflow_sync
from fedsweep.tracking.mlflow_store import refusing
from fedsweep.tracking.run_folder import RESULT, is_over, read_result


def sweep(folder: Path, tracking_uri: str | None) -> None:
    """A sweep that nobody is running: its run, the runs of its trials, its description and its figures."""
    from fedsweep.sweep import report

    with locked(folder):
        record = Record.read(folder)
        trials = records.begun_trials(folder, record)
        first = next((path for path in _begun(folder, record, trials)), None)
        if first is None:
            print(f"{folder}: no run has begun; there is nothing to bring to MLflow")
            return
        files = mlflow_sync.read(first, "", None)
        tracker = _tracker(files, tracking_uri)
        client, experiment = mlflow_store.connect(tracker)
        with refusing(tracker):
            store = mlflow_sync.Store(client, experiment, thorough=True)
            former, lost = record.mlflow_run_id, []
            command, commit = files.about.environment["command"][1:], files.about.environment["git_commit"]
            record, changed = mlflow_sync.sweep_run(store, folder, record, command, commit, files.started, lost)
            run_id, made = record.mlflow_run_id, record.mlflow_run_id != former
            mlflow_sync.children(store, folder, record, trials, run_id, former)
            records.write_trials(folder, trials, record.space, record.objectives)
            changed |= store.tally.changed
            there = {item.path for item in client.list_artifacts(run_id)}
            if (folder / report.FIGURES).is_dir() and report.FIGURES not in there:
                client.log_artifacts(run_id, str(folder / report.FIGURES), report.FIGURES)
            if changed:
                note = mlflow_run.description(dataclasses.asdict(record), command)
                complete = any(trial.status == "complete" for trial in trials if trial.results)
                if complete and not store.tally.skipped:  # a front needs all the files
                    note = f"{note}\n\n{report.markdown(folder, record)}"
                client.set_tag(run_id, mlflow_sync.NOTE, note)
            store.close(
                client.get_run(run_id), _sweep_status(record, trials, files.settings), _last(folder, record, trials)
            )
    print(f"{folder} -> {_shown(tracker)}: run {run_id}{' (made)' if made else ''}; runs of its trials: {store.tally}")
    for line in [*lost, *store.tally.skipped]:
        print(f"fedsweep: left out: {line}", file=sys.stderr)


def _begun(folder: Path, record: Record, trials: Sequence[Trial]) -> list[Path]:
    """The folders of the runs that have a plan."""
    return [
        folder / record.run_folder(trial.number, replicate)
        for trial in trials
        for replicate, result in trial.results.items()
        if result.get("plan")
    ]


def _last(folder: Path, record: Record, trials: Sequence[Trial]) -> int:
    """When the last run ended, in milliseconds since 1970."""
    return int(max((path / RESULT).stat().st_mtime for path in _begun(folder, record, trials)) * 1000)


def _sweep_status(record: Record, trials: Sequence[Trial], settings: Mapping) -> str:
    """How the sweep ended, as it says itself at its end."""
    own = [trial for trial in trials if not trial.twin]
    if len(trials) < record.n_trials or not all(trial.finished for trial in own):
        return "interrupted" if any(trial.status == "interrupted" for trial in own) else "failed"
    failed = sum(trial.status == "failed" for trial in own)
    fine = failed <= settings["sweep"]["max_failures"] and any(trial.status == "complete" for trial in own)
    return "complete" if fine else "failed"


def single(folder: Path, tracking_uri: str | None) -> None:
    """A run by itself that is over, or was killed."""
    with locked(folder, "run"):
        files = mlflow_sync.read(folder, "run", None)
        tracker = _tracker(files, tracking_uri)
        client, experiment = mlflow_store.connect(tracker)
        with refusing(tracker):
            store = mlflow_sync.Store(client, experiment, thorough=True)
            found = store.look_up(files.about.run_id) or store.unrecorded(files)
            if found and found.info.status == "RUNNING" and not is_over(files.result):  # on another machine, say
                local = sqlite_file(client.tracking_uri) is not None
                if not mlflow_store.is_dead(found.data.tags.get(mlflow_store.PROCESS, ""), local):
                    raise UserError(f"{folder}: its run has not ended; wait for it, or end it")
            run_id = store.bring(files, found, None)
            mlflow_sync.note(folder, dict(files.result), run_id)
    print(f"{folder} -> {_shown(tracker)}: run {run_id} {store.tally}")


def _tracker(files: mlflow_sync.Files, tracking_uri: str | None) -> schema.Tracker:
    """Where the run was tracked, unless another place is named; always with an address."""
    told = files.settings["tracker"]
    uri = tracking_uri or told.get("uri") or default_uri(_started_in(files))
    if MASK in uri:
        if masked_tree(chosen(None)) != uri:
            needs = f"its password is written nowhere; --tracking-uri or {VARIABLE} names the store"
            raise UserError(f"tracker.uri={uri}: {needs}")
        uri = chosen(None)
    return schema.Tracker(mlflow=True, uri=uri, experiment=told.get("experiment") or schema.Tracker.experiment)


def _started_in(files: mlflow_sync.Files) -> Path:
    """The folder whose default store a run was tracked in.

    If it is not there any longer, or the run is of an earlier version, which did not write it down: the one above the
    multirun_outputs that the run lies in, else the current folder.
    """
    told = files.about.environment.get("started_in")
    if isinstance(told, str) and Path(told).is_dir():
        return Path(told)
    above = (path.parent for path in files.about.folder.resolve().parents if path.name == "multirun_outputs")
    return next(above, Path.cwd())


def _shown(tracker: schema.Tracker) -> str:
    return masked(visible(tracker.uri))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fedsweep.tracking.sync", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of a sweep or a run, or latest: the last sweep of multirun_outputs")
    parser.add_argument(
        "--tracking-uri",
        help="of MLflow's store; default: the one that the run was tracked in, whatever folder this is started in",
    )
    arguments = parser.parse_args()
    with cli.one_line_errors():
        if arguments.folder == "latest":
            from fedsweep.pareto import load

            folder = load.latest(Path("multirun_outputs"))
        else:
            folder = Path(arguments.folder)
        if (folder / records.SWEEP).exists():
            sweep(folder, arguments.tracking_uri)
        elif (read_result(folder) or {}).get("plan"):
            single(folder, arguments.tracking_uri)
        else:
            raise UserError(f"{folder}: is neither a sweep's folder nor that of a run that has begun")


if __name__ == "__main__":
    main()
