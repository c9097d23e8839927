"""Sweeps made by hand: the files that a sweep leaves, through the code that writes them, with known numbers."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from fedsweep.files import write_json
from fedsweep.sweep.record import Record, Trial, write_trials
from fedsweep.tracking.run_folder import RoundRow

CLIENTS = 10
FLOAT32 = 32_000_000  # bits of a message without encoding, each way
BASE = {
    "rounds": 4,
    "seed": 0,
    "encoder": {"name": "uniform", "bits": 8},
    "downlink": {"name": "identity"},
    "dataset": {"name": "digits", "alpha": 1.0},
}
# (accuracy at a run's end, bits of one message up), by point and seed
Outcome = Callable[[dict[str, str], int], tuple[float, int]]


def curve(final: float, rounds: int) -> list[float]:
    """Accuracies of a run that ends at `final`."""
    return [final * (1 - 0.5 ** (number + 1)) / (1 - 0.5**rounds) for number in range(rounds)]


def sweep(
    folder: Path,
    points: Sequence[dict[str, str]],
    outcome: Outcome,
    replicates: int = 1,
    statuses: dict[int, str] | None = None,
    validation: Outcome | None = None,
    base: dict | None = None,
) -> Path:
    """A sweep over `points` whose runs ended as `outcome` says; `statuses`: of the trials that are not complete."""
    base = base or BASE
    keys = list(dict.fromkeys(key for point in points for key in point))
    record = Record(
        space={key: list(dict.fromkeys(point[key] for point in points)) for key in keys},
        points=list(points),
        n_trials=len(points),
        replicates=replicates,
        objectives={"test_accuracy": "maximize", "total_bits": "minimize"},
        sampling={},
        config=base,
        digests={},
        mlflow_run_id=None,
    )
    folder.mkdir(parents=True)
    record.write(folder)
    trials = []
    for number, point in enumerate(points):
        trial = Trial(number, point, replicates)
        for replicate in range(replicates):
            place = folder / record.run_folder(number, replicate)
            place.mkdir(parents=True)
            accuracy, bits = outcome(point, replicate)
            (place / "config.yaml").write_text(yaml.safe_dump(_settings(base, point)))
            rounds = int(point.get("rounds", base["rounds"]))
            last = _write_rounds(place, accuracy, bits, rounds, validation and validation(point, replicate)[0])
            result = {
                "status": (statuses or {}).get(number, "complete"),
                "test_accuracy": last.test_accuracy,
                "uplink_bits": last.uplink_bits,
                "downlink_bits": last.downlink_bits,
                "total_bits": last.total_bits,
                "rounds": rounds,
                "mlflow_run_id": None,
                "error": None,
                "plan": _plan(bits),
            }
            write_json(place / "result.json", result)
            trial.results[replicate] = result
        trials.append(trial)
    write_trials(folder, trials, keys, record.objectives)
    return folder


def _settings(base: dict, point: dict[str, str]) -> dict:
    settings = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for key, value in point.items():
        group, _, name = key.partition(".")
        if name:
            settings[group][name] = _configured(value)
        elif isinstance(settings.get(group), dict):
            settings[group]["name"] = value
        else:
            settings[group] = _configured(value)
    return settings


def _write_rounds(place: Path, accuracy: float, bits: int, rounds: int, validation: float | None) -> RoundRow:
    columns = [field.name for field in dataclasses.fields(RoundRow) if field.name != "uplink_width"]
    if validation is None:
        columns = [name for name in columns if not name.startswith("validation")]
    with (place / "rounds.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for number, value in enumerate(curve(accuracy, rounds), 1):
            up, down = number * CLIENTS * bits, number * CLIENTS * FLOAT32
            row = RoundRow(number, 1.0, value, 1 - value, value, up, down, up + down, 0.1)
            if validation is not None:
                held_out = curve(validation, rounds)[number - 1]
                row = dataclasses.replace(row, validation_loss=1 - held_out, validation_accuracy=held_out)
            table.writerow([getattr(row, name) for name in columns])
    return row


def _plan(bits: int) -> dict:
    def tensors(part: int) -> list[dict]:
        shares = {"conv/kernel": 0.25, "dense/kernel": 0.74, "dense/bias": 0.01}
        return [{"tensor": name, "bits": int(share * part), "coded": False} for name, share in shares.items()]

    return {
        "uplink": tensors(bits),
        "downlink": tensors(FLOAT32),
        "uplink_bits": bits,
        "downlink_bits": FLOAT32,
        "float32_uplink_bits": FLOAT32,
        "float32_downlink_bits": FLOAT32,
        "clients": CLIENTS,
        "receivers": CLIENTS,
        "coded": False,
    }


def _configured(value: str) -> object:
    """What Hydra makes of a point's text."""
    parsed = OverridesParser.create().parse_override(f"key={value}").value()
    return parsed.text if isinstance(parsed, QuotedString) else parsed
