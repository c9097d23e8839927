"""The table that ends a run or a sweep in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from fedsweep.sweep.engine import Engine
from fedsweep.sweep.record import Trial
from fedsweep.units import format_bits


@dataclass(frozen=True)
class Row:
    """A run: what tells it from the others, and its result.json."""

    labels: dict[str, str]
    result: dict


def show_trials(trials: Sequence[Trial]) -> None:
    """A row a trial, means over its replicates."""
    rows, keys = [], {key: "" for trial in trials for key in trial.point}
    for trial in trials:
        runs = trial.rows()
        if runs:
            result = {"status": (runs[0] if trial.twin else {"status": trial.status})["status"]}
            for key in ("test_accuracy", "uplink_bits", "downlink_bits", "uplink_ratio", "downlink_ratio"):
                values = [run[key] for run in runs if run.get(key) is not None]
                result[key] = sum(values) / len(values) if values else None
            rows.append(Row({"trial": str(trial.number), **keys, **trial.shown}, result))
    if rows:
        show(rows)


def show_plans(engine: Engine) -> None:
    """A dry run: what each trial would send, and which are duplicates."""
    table = Table()
    for column in ("trial", *engine.record.space, "uplink", "downlink", "total", "note"):
        table.add_column(column, justify="right" if column in ("uplink", "downlink", "total") else "left")
    for trial in engine.trials:
        sent, note = engine.sent.get(trial.number), trial.error or (trial.status if trial.finished else "")
        if trial.twin:
            note = f"duplicate of trial {trial.twin.number}"
        coded = engine.coded.get(trial.number, (False, False))
        bits = [""] * 3
        if sent:
            parts = zip((*sent, sum(sent)), (*coded, any(coded)), strict=True)
            bits = [format_bits(number) + (" + code" if more else "") for number, more in parts]
        table.add_row(str(trial.number), *(trial.shown.get(key, "") for key in engine.record.space), *bits, note)
    console = _console()
    console.print(table)
    record = engine.record
    left = record.n_trials - len(engine.trials)
    trained = [trial for trial in engine.trials if not trial.twin and not trial.finished]
    runs = f" with {record.replicates} runs each" if record.replicates > 1 else ""
    later = f"; {left} more would be drawn as these end" if left else ""
    console.print(f"{len(trained)} of {len(engine.trials)} trials would be trained{runs}{later}", highlight=False)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140, emoji=False, markup=False)


def show(rows: Sequence[Row]) -> None:
    """Configuration, status, accuracy, bits in both directions with the ratio to float32."""
    table = Table()
    for label in rows[0].labels:
        table.add_column(label, no_wrap=True)
    table.add_column("status")
    for column in ("accuracy", "uplink", "float32/uplink", "downlink", "float32/downlink"):
        table.add_column(column, justify="right")
    for row in rows:
        result = row.result
        table.add_row(
            *row.labels.values(),
            result["status"],
            _number(result.get("test_accuracy"), ".4f"),
            *_bits(result, "uplink"),
            *_bits(result, "downlink"),
        )
    _console().print(table)


def _bits(result: dict, direction: str) -> tuple[str, str]:
    bits = result.get(f"{direction}_bits")
    return ("" if bits is None else format_bits(bits)), _number(result.get(f"{direction}_ratio"), ".2f")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
