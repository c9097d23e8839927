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
from fedsweep.secrets import MASK, masked_tree
from fedsweep.store import VARIABLE, chosen, named, sqlite_file
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
        tracker = _tracker(files.settings, tracking_uri)
        client, experiment = mlflow_store.connect(tracker)
        with refusing(tracker):
            store = mlflow_sync.Store(client, experiment, thorough=True)
            parent, former = store.look_up(record.mlflow_run_id), record.mlflow_run_id
            if parent:  # it may have been resumed with another one
                store.experiment = parent.info.experiment_id
            tags = mlflow_run.sweep_tags(folder.name, dataclasses.asdict(record))
            made = parent is None
            if parent is None:
                commit = files.about.environment["git_commit"]
                run_id = mlflow_run.create_sweep(client, experiment, folder.name, tags, commit, files.started)
                record = dataclasses.replace(record, mlflow_run_id=run_id)
                record.write(folder)
                parent = client.get_run(run_id)
            run_id = parent.info.run_id
            mlflow_sync.children(store, folder, record, trials, run_id, former)
            records.write_trials(folder, trials, record.space, record.objectives)
            changed = mlflow_sync.set_tags(client, parent, tags) or made or store.tally.changed
            there = {item.path for item in client.list_artifacts(run_id)}
            if changed or records.SWEEP not in there:
                client.log_artifact(run_id, str(folder / records.SWEEP))
            if (folder / report.FIGURES).is_dir() and report.FIGURES not in there:
                client.log_artifacts(run_id, str(folder / report.FIGURES), report.FIGURES)
            if changed:
                command = files.about.environment["command"][1:]
                note = mlflow_run.description(dataclasses.asdict(record), command)
                complete = any(trial.status == "complete" for trial in trials if trial.results)
                if complete and not store.tally.skipped:  # a front needs all the files
                    note = f"{note}\n\n{report.markdown(folder, record)}"
                client.set_tag(run_id, "mlflow.note.content", note)
            store.close(parent, _sweep_status(record, trials, files.settings), _last(folder, record, trials))
    print(
        f"{folder} -> {named(tracker.uri)}: run {run_id}{' (made)' if made else ''}; runs of its trials: {store.tally}"
    )
    for line in store.tally.skipped:
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
    """A run by itself."""
    files = mlflow_sync.read(folder, "run", None)
    tracker = _tracker(files.settings, tracking_uri)
    client, experiment = mlflow_store.connect(tracker)
    with refusing(tracker):
        store = mlflow_sync.Store(client, experiment, thorough=True)
        found = store.look_up(files.about.run_id)
        if found and found.info.status == "RUNNING" and not is_over(files.result):
            local = sqlite_file(client.tracking_uri) is not None
            if not mlflow_store.is_dead(found.data.tags.get(mlflow_store.PROCESS, ""), local):
                raise UserError(f"{folder}: its run has not ended; wait for it, or end it")
        run_id = store.bring(files, found, None)
        mlflow_sync.note(folder, dict(files.result), run_id)
    print(f"{folder} -> {named(tracker.uri)}: run {run_id} {store.tally}")


def _tracker(settings: Mapping, tracking_uri: str | None) -> schema.Tracker:
    """Where the run was tracked, unless another place is named."""
    told = settings["tracker"]
    uri = tracking_uri or told["uri"]
    if uri and MASK in uri:
        if masked_tree(chosen(None)) != uri:
            needs = f"its password is written nowhere; --tracking-uri or {VARIABLE} names the store"
            raise UserError(f"tracker.uri={uri}: {needs}")
        uri = chosen(None)
    return schema.Tracker(mlflow=True, uri=uri, experiment=told["experiment"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fedsweep.tracking.sync", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of a sweep or a run, or latest: the last sweep of multirun_outputs")
    parser.add_argument("--tracking-uri", help="of MLflow's store; default: the one that the run was tracked in")
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
