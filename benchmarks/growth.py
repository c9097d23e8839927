"""How time and memory grow with clients, model size, bits and trials: a table, a plot, and the fitted exponents.

    python benchmarks/growth.py [--turns 4] [--out benchmarks/growth]

Time is that of a round, in columns that take turns (`conductor.py`); of a sweep for trials. The exponent is the slope
of the least-squares line through log(seconds) over log(size): 1 is linear. A fixed part (start-up, the server's step)
bends the line at small sizes, so the slope between the two largest sizes stands beside it. Clients: the tutorial's CNN,
8 bits. Model size: one hidden layer, 8 bits, 10 clients; its last step is steeper than linear because tensors outgrow
the caches: a pass over 10 million elements took 1.8 times as long an element as one over 2 million. Bits: the CNN, 10
clients. Trials: logistic regression on digits, one round each, different seeds; a worker is renewed after 20 runs, so
64 trials on two workers start each twice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from conductor import ROOT, RUN, TEN, compare, fedsweep, machine

CLIENTS = (10, 30, 100, 300)
PARAMETERS = (200_000, 600_000, 2_000_000, 6_000_000, 10_000_000)
BITS = (1, 2, 4, 8, 16)
TRIALS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Growth:
    """Seconds and bytes by size."""

    what: str
    sizes: tuple[int, ...]
    seconds: list[float]
    memory: list[int]

    @staticmethod
    def _exponents(sizes, values) -> tuple[float, float]:
        """(over all sizes, between the two largest)"""
        x, y = np.log(sizes), np.log(values)
        return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))

    @property
    def time_exponents(self) -> tuple[float, float]:
        return self._exponents(self.sizes, self.seconds)

    @property
    def memory_exponents(self) -> tuple[float, float]:
        return self._exponents(self.sizes, self.memory)


def rounds(what: str, columns: dict[int, list], turns: int, say: Callable[[str], None]) -> Growth:
    found = compare({str(size): command for size, command in columns.items()}, turns, 2, say).values()
    return Growth(what, tuple(columns), [c.median() for c in found], [c.memory for c in found])


def trials(folder: Path, say: Callable[[str], None]) -> Growth:
    """Seconds of whole sweeps; memory is the most that the sweep and its workers held together."""
    seconds, memory = [], []
    run = ("model=logistic_regression", "dataset=digits", "rounds=1", "clients_per_round=2")
    for count in (2, *TRIALS):  # the first, which is left out, makes MLflow's database and compiles the graphs
        seeds = ",".join(map(str, range(count)))
        command = [sys.executable, "-m", "fedsweep", "-m", *run, f"seed={seeds}", f"hydra.sweep.dir=trials_{count}"]
        started, most = time.monotonic(), 0
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                most = max(most, _resident(process.pid))
                time.sleep(0.1)
        if process.returncode:
            sys.exit(f"the sweep of {count} trials ended with status {process.returncode}")
        seconds.append(time.monotonic() - started)
        memory.append(most)
        say(f"  {count} trials: {seconds[-1]:.1f} s")
    return Growth("trials", TRIALS, seconds[1:], memory[1:])


def _resident(pid: int) -> int:
    """Bytes of a process and those below it."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:  # one has just ended
        pass
    return total


def table(grown: list[Growth]) -> str:
    lines = [
        "| what grows | sizes | seconds | exponent (last step) | memory MB | exponent (last step) |",
        "|---|---|---|---|---|---|",
    ]
    for growth in grown:
        time_fit, memory_fit = (f"{a:.2f} ({b:.2f})" for a, b in (growth.time_exponents, growth.memory_exponents))
        cells = (
            growth.what,
            ", ".join(f"{size:,}" for size in growth.sizes),
            ", ".join(f"{value:.2f}" for value in growth.seconds),
            time_fit,
            ", ".join(f"{value / 1e6:.0f}" for value in growth.memory),
            memory_fit,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(grown: list[Growth], path: Path) -> None:
    """Seconds above, memory below; dashed: linear growth from the largest size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter

    figure, axes = plt.subplots(2, len(grown), figsize=(3 * len(grown), 5), layout="constrained", squeeze=False)
    for k, growth in enumerate(grown):
        sizes = np.array(growth.sizes, float)
        for axis, values, (exponent, _), unit in (
            (axes[0][k], np.array(growth.seconds), growth.time_exponents, "seconds"),
            (axes[1][k], np.array(growth.memory) / 1e9, growth.memory_exponents, "memory, GB"),
        ):
            axis.loglog(sizes, values, "o-", label=f"exponent {exponent:.2f}")
            axis.loglog(sizes, values[-1] * sizes / sizes[-1], "--", color="0.6", label="linear")
            axis.set_xlabel(growth.what)
            axis.set_ylabel(unit)
            axis.set_xticks(sizes, [f"{size:,.0f}" if size < 1e5 else f"{size / 1e6:g}M" for size in sizes])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_ylim(min(values.min(), values[-1] / 10) / 1.5, values.max() * 1.5)
            axis.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=4, help="measured turns, after two that warm up")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "growth", help="path without .md and .png")
    arguments = parser.parse_args()
    shared = ROOT.parent / "shared" / "data"
    if shared.is_dir():
        os.environ.setdefault("FEDSWEEP_DATA", str(shared))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

    def say(line: str) -> None:
        print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="fedsweep-growth") as place:
        folder = Path(place)
        say("clients a round")
        columns = {n: fedsweep(folder, *RUN, f"clients_per_round={n}") for n in CLIENTS}
        grown = [rounds("clients a round", columns, arguments.turns, say)]
        say("model size")
        columns = {n: fedsweep(folder, "model=keras", f"model.maker=wide:p_{n}", *TEN[1:]) for n in PARAMETERS}
        grown.append(rounds("parameters", columns, arguments.turns, say))
        say("bits")
        columns = {n: fedsweep(folder, *TEN, f"encoder.bits={n}") for n in BITS}
        grown.append(rounds("bits an element", columns, arguments.turns, say))
        say("trials")
        grown.append(trials(folder, say))
    text = f"`make growth`, {machine()}\n\n{table(grown)}"
    say(text)
    about = " ".join(__doc__.split("\n\n", 2)[2].split())
    out = arguments.out
    out.with_suffix(".md").write_text(f"# Cost growth\n\n{about}\n\n{text}\n\n![growth]({out.name}.png)\n")
    plot(grown, out.with_suffix(".png"))
    say(f"Written: {out}.md, {out}.png")


if __name__ == "__main__":
    main()
