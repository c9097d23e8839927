"""One run: data, model, process, runtime, tracker -> result. This file is the story; every chapter has its own."""

from __future__ import annotations

import math
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from fedsweep import datasets, environment, evaluation, federated, models, runtime, schema, tracking
from fedsweep.errors import UserError
from fedsweep.federated import cohort
from fedsweep.federated import plan as planning
from fedsweep.progress import RunProgress
from fedsweep.tracking.run_folder import RoundRow, RunFolder


class _Diverged(Exception):
    """A loss or a mean update is no finite number; training cannot go on."""


@dataclass
class _Result:
    """What result.json will say; grows with the run."""

    clients_per_round: int
    plan: planning.Plan
    mlflow_run_id: str | None = None
    status: str = "running"
    error: str | None = None
    rounds: int = 0
    uplink_bits: int = 0
    downlink_bits: int = 0
    evaluation: evaluation.Evaluation | None = None  # the last one
    evaluated_round: int | None = None

    def as_dict(self) -> dict:
        messages = self.rounds * self.clients_per_round
        return {
            "status": self.status,
            "test_accuracy": self.evaluation and self.evaluation.accuracy,
            "test_loss": self.evaluation.loss if self.evaluation and math.isfinite(self.evaluation.loss) else None,
            "uplink_bits": self.uplink_bits,
            "downlink_bits": self.downlink_bits,
            "total_bits": self.uplink_bits + self.downlink_bits,
            "rounds": self.rounds,
            "evaluated_round": self.evaluated_round,  # test_* are of this round; before the last if the run was cut off
            # how many times as much the same rounds would have sent as float32
            "uplink_ratio": self.plan.float32_uplink_bits * messages / self.uplink_bits if messages else None,
            "downlink_ratio": self.plan.float32_downlink_bits * messages / self.downlink_bits if messages else None,
            "mlflow_run_id": self.mlflow_run_id,
            "error": self.error,
            "plan": self.plan.as_dict(),
        }


def run(config: schema.Config, folder: Path, name: str, parent: str | None = None) -> dict:
    """Trains as `config` says, into `folder`; what is wrong with the input is raised before anything is written.

    Args:
      config: a checked configuration.
      folder: the run's own folder.
      name: what people see: in the progress bar and as the tracker's run name.
      parent: the tracker's run id of the sweep, for a trial.

    Returns:
      The content of result.json. A run that diverged keeps its rounds and has `status` diverged.

    Raises:
      UserError: data, folder or tracker cannot be used.
      Exception: whatever else went wrong, after the folder's result says `failed` (`interrupted` after Ctrl-C).
    """
    dataset = datasets.load(config.dataset, config.seed)
    schema.check_cohort(config, len(dataset.client_ids))
    model = models.build(config.model.name, dataset.spec)
    plan = planning.of(config, model)
    if parent is None:  # a sweep has checked it
        tracking.check(config)

    result = _Result(config.clients_per_round, plan)
    with (
        RunFolder(folder, config, environment.describe(config.runtime, dataset)) as files,
        RunProgress(name, config.rounds) as progress,
    ):
        tracker = None
        try:
            tracker = _start_tracker(config, name, parent, progress)
            result.mlflow_run_id = tracker.run_id
            progress.say(f"{name}: {model.name} ({model.parameters:,} parameters) on {dataset.summary()}")
            for line in planning.warnings(config, plan):
                progress.say(line)
            _train(config, dataset, model, result, files, tracker, progress)
            result.status = "complete"
        except _Diverged as diverged:
            result.status, result.error = "diverged", str(diverged)
        except BaseException as error:
            result.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            result.error = environment.masked(traceback.format_exception_only(error)[-1].strip())
            raise
        finally:
            try:
                files.finish(result.as_dict())
            finally:
                if tracker:
                    tracker.finish(result.status)
    return result.as_dict()


def _start_tracker(config, name, parent, progress) -> tracking.Tracker:
    try:
        return tracking.start(config, name, parent)
    except UserError as error:
        if parent is None:
            raise
        progress.say(f"{name}: runs without the tracker: {error}")  # a sweep does not end because a server restarts
        return tracking.NoTracker()


def _train(config, dataset, model, result, files, tracker, progress) -> None:
    evaluate = evaluation.Evaluator(model, dataset, environment.threads(config.runtime))
    process = federated.build(config, model)
    with runtime.start(config.runtime, process) as running:
        for number in range(1, config.rounds + 1):
            started = time.monotonic()
            clients = cohort.sample(dataset, config.clients_per_round, config.seed, number)
            outcome = running.round(clients)
            result.uplink_bits += outcome.uplink_bits
            result.downlink_bits += outcome.downlink

            evaluated = None
            if number % config.evaluate_every == 0 or number == config.rounds:
                evaluated = evaluate(running.weights())
            row = RoundRow(
                round=number,
                train_loss=outcome.loss,
                train_accuracy=outcome.accuracy,
                test_loss=evaluated and evaluated.loss,
                test_accuracy=evaluated and evaluated.accuracy,
                uplink_bits=result.uplink_bits,
                downlink_bits=result.downlink_bits,
                total_bits=result.uplink_bits + result.downlink_bits,
                seconds=time.monotonic() - started,
            )
            files.log_round(row)
            tracker.log_round(row)
            result.rounds = number
            if evaluated:
                result.evaluation, result.evaluated_round = evaluated, number
            if not (
                math.isfinite(outcome.loss) and outcome.finite and (not evaluated or math.isfinite(evaluated.loss))
            ):
                raise _Diverged(f"round {number}: the loss or the mean update is no finite number; lower the rates")
            if evaluated or progress.live:
                accuracy = result.evaluation and result.evaluation.accuracy
                progress.advance(number, accuracy, result.uplink_bits, result.downlink_bits)
