"""What a sweep says at its end: the front in the terminal, its figure in the folder and at the tracker."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedsweep import cli
from fedsweep.errors import UserError
from fedsweep.sweep.engine import Engine
from fedsweep.sweep.record import Record, front

if TYPE_CHECKING:  # heavy
    from fedsweep.pareto.analysis import Answer
    from fedsweep.tracking.mlflow_tracker import Parent

FIGURES = "figures"


def make(engine: Engine, parent: Parent | None) -> None:
    """Shows the front and draws the figures. What goes wrong here is said and costs no result."""
    if not any(trial.status == "complete" for trial in engine.trials if trial.results):
        return  # the sweep is about to say so
    from fedsweep.pareto import export, terminal

    folder = engine.folder / FIGURES
    try:
        answer = _answer(engine.folder, engine.record)
        export.write(answer, folder, "wide", ("pdf", "png"), sys.argv)
        terminal.show(answer)
        print(f"Figures: {folder} (python -m fedsweep.pareto {shlex.quote(str(engine.folder))} --help makes others)")
        if parent:
            parent.report(_on_front(engine), folder, terminal.markdown(answer))
    except Exception as error:  # whatever it is: the sweep has its results, and its status is not that of a picture
        known = isinstance(error, UserError | OSError)
        reason = cli.one_line(error) if known else f"{type(error).__name__}: {error}"
        print(f"fedsweep: no figures: {reason}", file=sys.stderr)


def markdown(folder: Path, record: Record) -> str:
    """The front of a sweep with complete trials, as its description in MLflow shows it."""
    from fedsweep.pareto import terminal

    return terminal.markdown(_answer(folder, record))


def _answer(folder: Path, record: Record) -> Answer:
    from fedsweep.pareto import load
    from fedsweep.pareto.analysis import Question, analyse

    return analyse([load.from_folder(folder)], Question(**question(record)))


def _on_front(engine: Engine) -> dict[str, bool]:
    """MLflow's run id -> whether its trial is on the front."""
    best = front(engine.trials, engine.record.objectives)
    return {
        result["mlflow_run_id"]: trial.number in best
        for trial in engine.trials
        for result in trial.results.values()
        if result.get("mlflow_run_id")
    }


def question(record: Record) -> dict[str, str]:
    """The figure's axes follow the objectives, its colours the first group that is swept."""
    ways = [metric.removesuffix("_bits") for metric in record.objectives if metric.endswith("_bits")]
    metrics = [metric for metric in record.objectives if not metric.endswith("_bits")]
    groups = [key for key in record.space if key in record.config and isinstance(record.config[key], dict)]
    group = "encoder" if "encoder" in groups or not groups else groups[0]
    # What the validation set chooses, the test set reports.
    y = metrics[0].replace("validation_", "test_") if metrics else "test_accuracy"
    return {"x": ways[0] if ways else "total", "y": y, "group": group}
