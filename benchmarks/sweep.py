"""A sweep against the same runs as separate processes, one after another, in one call.

    python benchmarks/sweep.py [--pairs 1] [--workers 2]

Six points, 10 rounds each: the tutorial's CNN on mnist_by_writer, 10 writers a round, uniform quantization of 1, 2, 3,
4, 6 and 8 bits; MLflow as it is by default. Both ways write into folders of their own and start from nothing. The table
also says how long a worker takes from the end of a run to the end of the next one's first round.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BITS = (1, 2, 3, 4, 6, 8)
RUN = ("model=cnn", "dataset=mnist_by_writer", "rounds=10", "evaluate_every=5")
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def fedsweep(folder: Path, *arguments: str) -> float:
    """Wall seconds of one command in the folder."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "fedsweep", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def gaps(sweep: Path) -> list[float]:
    """For each run that followed another one in its worker: seconds from that one's end to its own first round's start.

    A run follows the one that ended last before it began. Its first round began where its log began, plus what was
    compiled: the row's time of writing less the round's seconds.
    """
    ends, starts = {}, {}
    for folder in sorted(path.parent for path in sweep.glob("*/rounds.csv")):
        ends[folder] = (folder / "result.json").stat().st_mtime
        with (folder / "rounds.csv").open() as file:
            first = next(csv.DictReader(file))
        starts[folder] = float((folder / "first_round").read_text()) - float(first["seconds"])
    found, free = [], sorted(ends.values())
    for start in sorted(starts.values()):
        before = [end for end in free if end < start]
        if before:
            found.append(start - before[-1])
            free.remove(before[-1])
    return found


def watch(process: subprocess.Popen, sweep: Path) -> None:
    """Notes when each run's first round was written, until the process ends."""
    while process.poll() is None:
        for rounds in sweep.glob("*/rounds.csv"):
            note = rounds.with_name("first_round")
            with contextlib.suppress(OSError):
                if not note.exists() and rounds.read_text().count("\n") > 1:
                    note.write_text(str(rounds.stat().st_mtime))
        time.sleep(0.02)


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if _SHARED.is_dir():
        os.environ.setdefault("FEDSWEEP_DATA", str(_SHARED))

    ratios, table = [], Table(title=f"six runs of 10 rounds, {os.cpu_count()} cores", title_justify="left")
    for heading in (
        "pair",
        "separate processes s",
        f"sweep, {arguments.workers} workers s",
        "ratio",
        "to the next run s",
    ):
        table.add_column(heading, justify="right")
    for pair in range(arguments.pairs):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            alone = sum(fedsweep(Path(one), *RUN, f"encoder.bits={bits}") for bits in BITS)
            started = time.monotonic()
            swept = f"encoder.bits={','.join(map(str, BITS))}"
            command = ["-m", *RUN, swept, f"sweep.max_workers={arguments.workers}", "hydra.sweep.dir=sweep"]
            process = subprocess.Popen([sys.executable, "-m", "fedsweep", *command], cwd=other)
            watch(process, Path(other) / "sweep")
            if process.returncode:
                sys.exit(f"the sweep ended with status {process.returncode}")
            together = time.monotonic() - started
            between = gaps(Path(other) / "sweep")
        ratios.append(together / alone)
        pauses = " ".join(f"{pause:.1f}" for pause in between)
        table.add_row(str(pair + 1), f"{alone:.1f}", f"{together:.1f}", f"{ratios[-1]:.2f}", pauses)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"median ratio {statistics.median(ratios):.2f} (bar: 0.60); a pause is to be below 5 s")


if __name__ == "__main__":
    main()
