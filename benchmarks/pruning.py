"""What dominance pruning saves and what it costs: the same sweep with and without it, in one call.

    python benchmarks/pruning.py [--rounds 20]

Twelve points on mnist_by_writer: the 2NN of McMahan et al., encoders uniform and hadamard, 2 and 6 bits in both
directions, client rates 0.01, 0.05 and 0.2. `rounds saved` is the share of the rounds that were not trained;
`hypervolume lost` is the share of the area that the front of all operating points (accuracy at bits, of every
evaluation) dominates, accuracy from 0 and bits up to the most that any run sent, that is gone.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SPACE = (
    "model=2nn", "dataset=mnist_by_writer", "downlink=same", "evaluate_every=2", "encoder.threshold=1000",
    "encoder=uniform,hadamard", "encoder.bits=2,6", "optimizer.client_lr=0.2,0.05,0.01", "tracker=csv",
)  # fmt: skip
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def sweep(place: Path, name: str, *arguments: str) -> Path:
    command = [sys.executable, "-m", "fedsweep", "-m", *SPACE, *arguments, f"hydra.sweep.dir={name}"]
    subprocess.run(command, cwd=place, check=True)
    return place / name


def curves(folder: Path) -> list[list[tuple[float, int]]]:
    """For each run its evaluations: (accuracy, bits)."""
    runs = [list(csv.DictReader(path.open())) for path in sorted(folder.glob("*/rounds.csv"))]
    return [
        [(float(row["test_accuracy"]), int(row["total_bits"])) for row in run if row["test_accuracy"]] for run in runs
    ]


def rounds(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) - 1 for path in folder.glob("*/rounds.csv"))


def hypervolume(points: list[tuple[float, int]], most_bits: int) -> float:
    """The area that (accuracy, bits) points dominate, up to `most_bits`, in units of accuracy times `most_bits`."""
    area, best, before = 0.0, 0.0, 0
    for accuracy, bits in sorted(points, key=lambda point: (point[1], -point[0])):
        area += best * (bits - before)
        best, before = max(best, accuracy), bits
    return (area + best * (most_bits - before)) / most_bits


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    if _SHARED.is_dir():
        os.environ.setdefault("FEDSWEEP_DATA", str(_SHARED))
    with tempfile.TemporaryDirectory() as place:
        length = f"rounds={arguments.rounds}"
        whole = sweep(Path(place), "whole", length)
        table = Table(title=f"{length}, {rounds(whole)} rounds without pruning", title_justify="left")
        for heading in ("margin", "patience", "pruned runs", "rounds saved", "hypervolume lost"):
            table.add_column(heading, justify="right")
        operating = [point for curve in curves(whole) for point in curve]
        most = max(bits for _, bits in operating)
        full = hypervolume(operating, most)
        for margin, patience in ((0.02, 2), (0.05, 3)):
            pruner = [f"sweep.pruner.margin={margin}", f"sweep.pruner.patience={patience}", "sweep.in_flight=2"]
            pruned = sweep(Path(place), f"{margin}", length, "sweep/pruner=dominance", *pruner)
            kept = hypervolume([point for curve in curves(pruned) for point in curve], most)
            stopped = sum(row["status"] == "pruned" for row in csv.DictReader((pruned / "trials.csv").open()))
            saved = 1 - rounds(pruned) / rounds(whole)
            table.add_row(f"{margin}", f"{patience}", f"{stopped}", f"{saved:.1%}", f"{1 - kept / full:.2%}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
