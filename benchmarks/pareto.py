"""How long an export of 10,000 runs takes: all figures as PDF and PNG, all tables; on a sweep that is made for it.

    python benchmarks/pareto.py [--trials 3334] [--replicates 3]

The bar is 10 seconds. The rounds are drawn, not trained: what is measured is reading, statistics and drawing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "pareto"))
import handmade

ENCODERS = ("uniform", "hadamard", "eden", "top_k", "qsgd", "natural")
BAR = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=3334)
    parser.add_argument("--replicates", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    points = [
        {"encoder": ENCODERS[k % len(ENCODERS)], "encoder.bits": str(1 + k % 16), "optimizer.client_lr": f"{lr:.6f}"}
        for k, lr in enumerate(rng.uniform(0.01, 1, arguments.trials))
    ]

    def outcome(point, replicate):
        bits = int(point["encoder.bits"])
        accuracy = 0.97 - 0.4 * 2.0**-bits - 0.1 * abs(float(point["optimizer.client_lr"]) - 0.3)
        return accuracy + 0.004 * rng.normal(), int(handmade.FLOAT32 * bits / 32 * rng.uniform(0.9, 1.1))

    base = {**handmade.BASE, "rounds": 8, "optimizer": {"name": "fedavg", "client_lr": 0.1}}
    with tempfile.TemporaryDirectory() as place:
        print("making the sweep", flush=True)
        folder = handmade.sweep(Path(place, "sweep"), points, outcome, arguments.replicates, base=base)
        for attempt in ("first", "second"):
            started = time.perf_counter()
            command = [sys.executable, "-m", "fedsweep.pareto", str(folder), "--out", str(Path(place, "figures"))]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            runs = arguments.trials * arguments.replicates
            print(f"{runs:,} runs, {attempt} export: {seconds:.1f} s (bar {BAR:.0f}, start-up included)", flush=True)


if __name__ == "__main__":
    main()
