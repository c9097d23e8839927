"""One run: data, model, process, runtime, tracker -> result. This file is the story; every chapter has its own."""

from __future__ import annotations

import dataclasses
import math
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsweep import datasets, environment, evaluation, interrupts, models, runtime, schema, secrets, shown, tracking
from fedsweep.errors import DamagedFile, NotWritten, UserError
from fedsweep.federated import cohort
from fedsweep.federated import plan as planning
from fedsweep.progress import Progress
from fedsweep.pruning import Pruned
from fedsweep.runtime import checkpoint
from fedsweep.tracking import Place
from fedsweep.tracking.run_folder import CLIENT_QUANTILES, RoundRow, RunFolder, trusted_result


class _Diverged(Exception):
    """A loss or a mean update is no finite number; training cannot go on."""


@dataclass
class _Result:
    """What result.json will say; grows with the run."""

    config: schema.Config
    population: int
    plan: planning.Plan
    point: Mapping[str, str] | None = None  # of a run of a sweep: what is swept, with its values
    mlflow_run_id: str | None = None
    status: str = "running"
    error: str | None = None
    rounds: int = 0
    train_loss: float | None = None  # in the last round
    train_accuracy: float | None = None
    uplink_bits: int = 0
    downlink_bits: int = 0
    test_accuracy: float | None = None  # at the last evaluation
    test_loss: float | None = None
    validation_accuracy: float | None = None
    validation_loss: float | None = None
    by_client: dict[str, float] = dataclasses.field(default_factory=dict)  # quantiles of the test accuracy
    evaluated_round: int | None = None
    bad_updates: int = 0  # so far
    client_memory_bytes: int = 0  # what clients keep between rounds, all that have taken part together

    def take(self, row: RoundRow) -> None:
        """A round has ended."""
        self.rounds, self.uplink_bits, self.downlink_bits = row.round, row.uplink_bits, row.downlink_bits
        self.train_loss, self.train_accuracy = row.train_loss, row.train_accuracy
        self.bad_updates += row.bad_updates or 0
        if row.test_accuracy is not None:
            self.test_loss, self.test_accuracy, self.evaluated_round = row.test_loss, row.test_accuracy, row.round
            self.validation_loss, self.validation_accuracy = row.validation_loss, row.validation_accuracy
            self.by_client = row.by_client

    def as_dict(self) -> dict:
        sent, received = cohort.messages(self.config, lambda: self.population, self.rounds)
        dropped = self.bad_updates if self.config.on_bad_update == "drop" else 0
        sent -= dropped
        return {
            "status": self.status,
            "test_accuracy": self.test_accuracy,
            "test_loss": _finite(self.test_loss),
            **self.by_client,
            "validation_accuracy": self.validation_accuracy,
            "validation_loss": _finite(self.validation_loss),
            "train_accuracy": self.train_accuracy,
            "train_loss": _finite(self.train_loss),
            "uplink_bits": self.uplink_bits,
            "downlink_bits": self.downlink_bits,
            "total_bits": self.uplink_bits + self.downlink_bits,
            "rounds": self.rounds,
            "evaluated_round": self.evaluated_round,  # test_* are of this round; before the last if the run was cut off
            # how many times as much the same rounds would have sent as float32
            "uplink_ratio": self.plan.float32_uplink_bits * sent / self.uplink_bits if sent else None,
            "downlink_ratio": self.plan.float32_downlink_bits * received / self.downlink_bits if received else None,
            "client_memory_bytes": self.client_memory_bytes,
            "dropped_updates": dropped,  # of clients that on_bad_update=drop left out
            "mlflow_run_id": self.mlflow_run_id,
            "error": self.error,
            "configuration": schema.digest(self.config),  # what the run is the result of
            **({} if self.point is None else {"point": dict(self.point)}),
            "plan": self.plan.as_dict(),
        }


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def run(config: schema.Config, folder: Path, name: str, progress: Progress, sweep: Place | None = None) -> dict:
    """Trains as `config` says, into `folder`; what is wrong with the input is raised before anything is written.

    Args:
      config: a checked configuration.
      folder: the run's own folder.
      name: what people see, the tracker's run name.
      progress: is told how it goes.
      sweep: for a run of a sweep.

    Returns:
      The content of result.json. A run that diverged keeps its rounds and has `status` diverged.

    Raises:
      UserError: data, folder or tracker cannot be used.
      Exception: whatever else went wrong, after the folder's result says `failed` (`interrupted` after Ctrl-C).
    """
    dataset = datasets.load(config.dataset, config.seed)
    population = len(dataset.client_ids)
    schema.check_cohort(config, population)
    model = models.build(config.model, dataset.spec)
    plan = planning.of(config, model, lambda: population)
    if sweep is None:  # a sweep has checked it
        tracking.check(config)

    result = _Result(config, population, plan, sweep.point if sweep else None)
    described = environment.describe(config.runtime, dataset)
    with RunFolder(folder, config, described, _columns(config, dataset), go_on=sweep is not None) as files, progress:
        tracker: tracking.Tracker = tracking.Trackers([])  # until there are others
        try:
            before = trusted_result(folder, config=config) or {}  # of a run that was cut off
            result.mlflow_run_id = before.get("mlflow_run_id")
            about = tracking.About(name, folder, described, plan.as_dict(), result.mlflow_run_id, sweep)
            tracker = _start_tracker(config, about, progress)
            result.mlflow_run_id = tracker.run_id or result.mlflow_run_id
            files.write_result(result.as_dict())
            progress.say(f"{name}: {model.name} ({model.parameters:,} parameters) on {dataset.summary()}")
            for line in planning.notes(config, plan):
                progress.say(line)
            _train(config, dataset, model, result, files, tracker, progress, sweep)
            result.status = "complete"
        except (_Diverged, Pruned) as stopped:
            result.status = "diverged" if isinstance(stopped, _Diverged) else "pruned"
            result.error = str(stopped)
        except BaseException as error:
            if interrupts.behind(error):
                result.status, result.error = "interrupted", "interrupted by a signal"
                raise KeyboardInterrupt from error
            result.status = "interrupted" if isinstance(error, NotWritten) else "failed"  # with room it can go on
            said = " ".join(traceback.format_exception_only(error)[-1].split())
            result.error = shown.printable(secrets.masked(said))
            raise
        finally:
            try:
                tracker.flush()  # first: a run with a result is never looked at again
            finally:
                try:
                    files.write_result(result.as_dict())
                finally:
                    tracker.finish(result.status)
                    for line in tracker.lost:
                        progress.untracked(line)
    return result.as_dict()


def _columns(config: schema.Config, dataset: datasets.FederatedDataset) -> list[str]:
    """Those of rounds.csv; a run has no columns that would stay empty."""
    absent = {"uplink_width"} if config.schedule.name == "constant" else set()
    if not config.validates:
        absent |= {"validation_loss", "validation_accuracy"}
    if dataset.test.clients is None:
        absent |= set(CLIENT_QUANTILES)
    if config.on_bad_update == "fail":
        absent |= {"bad_updates"}
    return [field.name for field in dataclasses.fields(RoundRow) if field.name not in absent]


def _start_tracker(config, about, progress) -> tracking.Tracker:
    try:
        return tracking.start(config, about)
    except UserError as error:
        if about.sweep is None:
            raise
        progress.say(f"{about.name}: runs without the tracker: {error}")  # a sweep outlives a server that restarts
        trackers = tracking.Trackers([])
        trackers.lost.append(str(error))
        return trackers


def _train(config, dataset, model, result, files, tracker, progress, sweep) -> None:
    evaluate = evaluation.Evaluator(model, dataset, environment.threads(config.runtime))
    with runtime.start(config, model, len(dataset.client_ids)) as running:
        rows = _restore(files, running, progress) if sweep else []
        for row in rows:
            result.take(row)
            tracker.log_round(row)
        if result.rounds:
            progress.go_on(result.rounds)
        for number in range(result.rounds + 1, config.rounds + 1):
            started = time.monotonic()
            try:
                outcome = running.round(*cohort.sample(dataset, config, number))
            except runtime.NotFiniteError as error:
                what = error if error.everybody else f"a client's update of {error}"
                raise _Diverged(f"round {number}: {what}; lower the rates") from error
            uplink_bits = result.uplink_bits + outcome.uplink_bits
            downlink_bits = result.downlink_bits + outcome.downlink

            evaluated = validated = None
            if number % config.evaluate_every == 0 or number == config.rounds:
                weights = running.weights()
                evaluated, validated = evaluate.test(weights), evaluate.validate(weights)
            row = RoundRow(
                round=number,
                train_loss=outcome.loss,
                train_accuracy=outcome.accuracy,
                test_loss=evaluated and evaluated.loss,
                test_accuracy=evaluated and evaluated.accuracy,
                uplink_bits=uplink_bits,
                downlink_bits=downlink_bits,
                total_bits=uplink_bits + downlink_bits,
                seconds=time.monotonic() - started,
                uplink_width=outcome.width,
                validation_loss=validated and validated.loss,
                validation_accuracy=validated and validated.accuracy,
                bad_updates=None if config.on_bad_update == "fail" else outcome.bad_updates,
                **{f"test_accuracy_{name}": at for name, at in ((evaluated and evaluated.quantiles) or {}).items()},
            )
            result.client_memory_bytes = running.client_memory
            files.log_round(row)
            tracker.log_round(row)
            result.take(row)
            rows.append(row)
            if not (
                math.isfinite(outcome.loss) and outcome.finite and (not evaluated or math.isfinite(evaluated.loss))
            ):
                raise _Diverged(f"round {number}: the loss or the mean update is no finite number; lower the rates")
            if evaluated or progress.live:
                progress.advance(number, result.test_accuracy, uplink_bits, downlink_bits)
            if sweep is None or number == config.rounds:
                continue
            if evaluated and sweep.pruner:
                sweep.pruner.check(rows)
            if config.checkpoint_every and number % config.checkpoint_every == 0:
                files.sync()  # first the rounds, then the state that has seen them
                checkpoint.write(files.checkpoints[0], number, running.state(), files.history)


def _restore(files: RunFolder, running: runtime.Runtime, progress: Progress) -> list[RoundRow]:
    """Takes the runtime to the last checkpoint whose rounds are there as they were written, and keeps only those.

    Returns:
      These rounds; none if the run starts again. What was not as it was written is said.
    """
    rows: list[RoundRow] = []
    problems: dict[str, None] = {}
    for path in files.checkpoints:
        saved = checkpoint.read(path)
        if saved:
            try:
                rows = files.rows(saved.round, saved.history)
            except DamagedFile as error:
                problems[f"{error.path}: {error.what}"] = None
            else:
                running.restore(saved.state)
                break
        elif path.exists():
            problems[f"{path}: is not what was written"] = None
        path.unlink(missing_ok=True)  # the next one that is written must not push a good one out
    files.keep(len(rows))
    if problems:
        progress.warn(f"{'; '.join(problems)}; the run {'goes on from an earlier state' if rows else 'starts again'}")
    return rows
