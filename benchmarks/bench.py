"""fedsweep against its peers and its own targets, in one call: `make bench`.

    python benchmarks/bench.py [--only rounds,clients,...] [--turns 4] [--out benchmarks/results.md]

Workload: the tutorial's CNN (1,663,370 parameters) on mnist_by_writer, 10 writers a round (about 115 digits each),
batches of 20, one epoch; quantization is uniform, of tensors above 10,000 elements, on the uplink, in the tutorial's
28 of 32 bits. Columns take turns on the same writers, each in a process of its own; what counts is the median of the
ratios within a turn, since seconds are a machine's and a moment's. Memory is the high-water mark of a process's
resident size, plus those of all processes below it. Peers are there where `make bench-peers` has made their
environments.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import startup
from conductor import ROOT, RUN, TEN, compare, fedsweep, is_made, machine, own, peer, ratio
from rich.console import Console
from rich.table import Table

WARM_UP = 3
ENCODERS = {
    "identity": "encoder=identity",
    "uniform 2 bits": "encoder.bits=2",
    "uniform 4 bits": "encoder.bits=4",
    "uniform 8 bits": "encoder.bits=8",
    "drive": "encoder=drive",
    "top_k 1 %": "encoder=top_k encoder.share=0.01",
    "8 bits, huffman": "encoder.bits=8 code=huffman",
}


@dataclass
class Section:
    title: str
    about: str
    heads: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def print(self, console: Console) -> None:
        table = Table(title=self.title, title_justify="left")
        for k, head in enumerate(self.heads):
            table.add_column(head, justify="right" if k else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", self.about, ""] if self.about else [f"## {self.title}", ""]
        lines += [_line(self.heads), _line(["---", *["---:"] * (len(self.heads) - 1)]), *map(_line, self.rows)]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Target:
    """What a ratio, or a number of seconds or bytes, must not exceed."""

    what: str
    most: float
    found: float
    unit: str = ""

    def row(self) -> Sequence[str]:
        unit = f" {self.unit}" if self.unit else ""
        met = "yes" if self.found <= self.most else "NO"
        return self.what, f"{self.most:g}{unit}", f"{self.found:.3g}{unit}", met


@dataclass
class Bench:
    """One call: where its data lie, how many turns, and what it found."""

    folder: Path
    turns: int
    say: Callable[[str], None]
    sections: list[Section] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def data(self, clients: int) -> Path:
        """The cohorts' files; made once."""
        folder = self.folder / f"{clients} clients"
        if not folder.exists():
            folder.mkdir()
            rounds = str(max(self.turns + WARM_UP, startup.ROUNDS))
            command = fedsweep(folder, "--export", rounds, *RUN, f"clients_per_round={clients}")
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return folder

    def add(self, section: Section) -> Section:
        self.say(section.title)
        self.sections.append(section)
        return section

    def goals(self) -> Section:
        return Section("Targets", "", ("", "at most", "found", "met"), [target.row() for target in self.targets])

    def meet(self, what: str, most: float, found: float, unit: str = "") -> None:
        self.targets.append(Target(what, most, found, unit))


def rounds(bench: Bench) -> None:
    section = bench.add(
        Section(
            "A round of the tutorial",
            "PyTorch, TensorFlow, Flower, pfl-research and FedJAX send float32; stock TFF quantizes to 8 bits. All run"
            " with their defaults; fedsweep's is oneDNN, which TensorFlow leaves off on a CPU without AVX-512. Data is"
            " read before the clock starts, but for Flower's clients, which read their own (milliseconds).",
            ("", "s a round", "of stock TFF", "of PyTorch", "peak memory MB"),
        )
    )
    data = bench.data(10)
    columns = {
        "stock TFF, 8 bits": own("stock_tff", data),
        "plain TensorFlow": own("plain_tensorflow", data),
        "plain PyTorch": peer("torch", "pfl", data),
        "pfl-research": peer("pfl", "pfl", data),
        "Flower": peer("flower", "flower", data),
        "FedJAX": peer("fedjax", "fedjax", data),
        "fedsweep, float32": fedsweep(data, "encoder=identity", *TEN),
        "fedsweep, 8 bits": fedsweep(data, "encoder.bits=8", *TEN),
        "fedsweep, 8 bits, runtime=tff": fedsweep(data, "encoder.bits=8", "runtime=tff", *TEN),
    }
    found = compare(columns, bench.turns, WARM_UP, bench.say)
    stock, torch, ours = found["stock TFF, 8 bits"], found.get("plain PyTorch"), found["fedsweep, 8 bits"]
    for name, column in found.items():
        section.rows.append(
            (
                name,
                f"{column.median():.2f}",
                f"{ratio(column, stock):.2f}",
                f"{ratio(column, torch):.2f}" if torch else "",
                f"{column.memory / 1e6:.0f}",
            )
        )
    bench.meet("a round with 8 bits, of stock TFF's", 0.40, ratio(ours, stock))
    if torch:
        bench.meet("a round with 8 bits, of plain PyTorch's with float32", 0.95, ratio(ours, torch))


def clients(bench: Bench) -> None:
    section = bench.add(
        Section(
            "Clients a round",
            "Clients stream through: memory holds a few updates, whatever their number.",
            ("", "clients", "s a round", "of 10 clients", "examples, of 10 clients", "peak memory MB"),
        )
    )
    counts = (10, 30, 100)
    for name, command in {
        "stock TFF, 8 bits": lambda n: own("stock_tff", bench.data(n)),
        "plain PyTorch": lambda n: peer("torch", "pfl", bench.data(n)),
        "fedsweep, 8 bits": lambda n: fedsweep(bench.data(n), "encoder.bits=8", *RUN, f"clients_per_round={n}"),
    }.items():
        turns = max(2, bench.turns // 2)
        found = compare({f"{name} {n}": command(n) for n in counts}, turns, WARM_UP, bench.say)
        if not found:
            continue
        ten, *_, hundred = found.values()
        for n, column in zip(counts, found.values(), strict=True):
            section.rows.append(
                (
                    name,
                    str(n),
                    f"{column.median():.2f}",
                    f"{ratio(column, ten):.2f}",
                    f"{_examples(bench.data(n), turns) / _examples(bench.data(10), turns):.2f}",
                    f"{column.memory / 1e6:.0f}",
                )
            )
    bench.meet("100 clients a round, of 10", 10.5, ratio(hundred, ten))
    bench.meet("more memory for 100 clients than for 10", 300, (hundred.memory - ten.memory) / 1e6, "MB")


def _examples(folder: Path, turns: int) -> int:
    """In the rounds that are compared."""
    import numpy as np

    total = 0
    for number in range(WARM_UP + 1, WARM_UP + turns + 1):
        with np.load(folder / f"{number}.npz") as arrays:
            total += sum(len(arrays[name]) for name in arrays.files[1::2])
    return total


def models(bench: Bench) -> None:
    section = bench.add(
        Section(
            "Models",
            "10 clients a round; the LSTM reads 80 characters of tiny_shakespeare at a time (batches of 4), at most 20"
            " pieces a client.",
            ("", "parameters", "float32 s", "8 bits s", "8 bits, of float32", "peak memory MB"),
        )
    )
    text = ("dataset=tiny_shakespeare", "client_batch_size=4", "client_max_examples=20", "clients_per_round=10")
    for name, parameters, overrides in (
        ("CNN", "1,663,370", TEN),
        ("2NN", "199,210", ("model=2nn", *TEN[1:])),
        ("LSTM", "820,522", ("model=char_lstm", *text)),
    ):
        columns = {bits: fedsweep(bench.folder, overriding, *overrides) for bits, overriding in _BITS.items()}
        found = compare(columns, bench.turns, WARM_UP, bench.say)
        plain, eight = found.values()
        section.rows.append(
            (
                name,
                parameters,
                f"{plain.median():.3f}",
                f"{eight.median():.3f}",
                f"{ratio(eight, plain):.2f}",
                f"{max(plain.memory, eight.memory) / 1e6:.0f}",
            )
        )


_BITS = {"float32": "encoder=identity", "8 bits": "encoder.bits=8"}


def encoders(bench: Bench) -> None:
    section = bench.add(
        Section("Encoders", "", ("", "s a round", "of float32", "peak memory MB")),
    )
    columns = {name: fedsweep(bench.folder, *overrides.split(), *TEN) for name, overrides in ENCODERS.items()}
    found = compare(columns, bench.turns, WARM_UP, bench.say)
    for name, column in found.items():
        section.rows.append(
            (
                name,
                f"{column.median():.2f}",
                f"{ratio(column, found['identity']):.2f}",
                f"{column.memory / 1e6:.0f}",
            )
        )


def widths(bench: Bench) -> None:
    section = bench.add(
        Section(
            "Widths of uniform quantization",
            "What encoding and decoding the updates of all clients adds to a round with float32, in the same number of"
            " threads, as a share of that round. (Whole rounds differ by 8 % from one compilation of the same graph to"
            " the next: more than most widths cost.)",
            ("bits", "28 of 32 bits", "dense"),
        )
    )
    cases = {
        f"{bits} {packing}": f"encoder.bits={bits} encoder.packing={packing}"
        for bits in range(1, 17)
        for packing in ("tensor_encoding", "dense")
    }
    arguments = [part for name, case in cases.items() for part in ("--case", f"{name}={case}")]
    column = compare({"all": own("encoding", bench.folder, *arguments, *TEN)}, 2 * bench.turns, WARM_UP, bench.say)[
        "all"
    ]
    costs = {
        name: statistics.median((turn[name] - turn["float32"]) / turn["round"] for turn in column.turns)
        for name in cases
    }
    for bits in range(1, 17):
        shares = (f"{100 * costs[f'{bits} {packing}']:.1f} %" for packing in ("tensor_encoding", "dense"))
        section.rows.append((str(bits), *shares))
    dearest = max(costs, key=costs.get)
    bench.meet(f"encoding at any width from 1 to 16 (dearest: {dearest})", 10, 100 * costs[dearest], "%")


def starting(bench: Bench) -> None:
    section = bench.add(
        Section(
            "Start-up",
            "Seconds from the command to the beginning and to the end of the first round. Cold: nobody has compiled its"
            " graphs; kept: an earlier process has. fedsweep's command reads its configuration, connects to MLflow and"
            " plans; the others are scripts without any of that.",
            ("", "to the first round", "to its end"),
        )
    )
    found: dict[str, list[tuple[float, float]]] = {}
    data, place = bench.data(10), bench.folder / "start"
    place.mkdir()
    for turn in range(1, 4):
        bench.say(f"  turn {turn}")
        for name in ("cold", "kept"):
            seconds = startup.first_round(place, f"{name}_{turn}", cache=place / f"cache_{turn}")
            found.setdefault(f"fedsweep, {name}", []).append(seconds)
        for name, command in {
            "stock TFF": own("stock_tff", data),
            "plain TensorFlow": own("plain_tensorflow", data),
            "plain PyTorch": peer("torch", "pfl", data),
            "pfl-research": peer("pfl", "pfl", data),
            "Flower": peer("flower", "flower", data),
            "FedJAX": peer("fedjax", "fedjax", data),
        }.items():
            if command:
                found.setdefault(name, []).append(startup.first_answer(command))
    for name, times in found.items():
        section.rows.append((name, *(f"{statistics.median(part):.1f}" for part in zip(*times, strict=True))))
    cold = statistics.median(start for start, _ in found["fedsweep, cold"])
    bench.meet("start-up to first round, cold", 10, cold, "s")


def sweeps(bench: Bench) -> None:
    section = bench.add(
        Section(
            "A sweep",
            f"Six points of {startup.ROUNDS} rounds, evaluated every five: fedsweep's sweep against six processes, one"
            " after another. Then a worker's pause: from the end of a run to the beginning and the end of the first"
            " round of the next one, whose graphs nobody has compiled before.",
            ("", "s", "of six processes"),
        )
    )
    data = bench.data(10)
    place = bench.folder / "sweep"
    place.mkdir()
    seconds, pauses = startup.sweep(place, place / "cache")
    section.rows.append(("fedsweep", f"{seconds:.1f}", ""))
    for name, most, command in (
        ("stock TFF", 0.30, own("stock_tff", data)),
        ("pfl-research", 0.75, peer("pfl", "pfl", data)),
    ):
        if command:
            bench.say(f"  six processes of {name}")
            alone = sum(startup.run_alone(command) for _ in startup.BITS)
            section.rows.append((f"six processes of {name}", f"{alone:.1f}", f"{seconds / alone:.2f}"))
            bench.meet(f"a sweep of six points, of six {name} processes", most, seconds / alone)
    begin, end = (statistics.median(part) for part in zip(*pauses, strict=True))
    section.rows.append(("pause of a worker, to the first round", f"{begin:.1f}", ""))
    section.rows.append(("pause of a worker, to its end", f"{end:.1f}", ""))
    bench.meet("start-up to first round in a warm worker", 3, begin, "s")


def evaluation(bench: Bench) -> None:
    section = bench.add(
        Section("Evaluation", "The CNN on the test set's 10,000 digits.", ("", "s", "of plain TensorFlow"))
    )
    data = bench.data(10)
    columns = {
        "plain TensorFlow": own("plain_tensorflow", data, "--evaluation"),
        "plain PyTorch": peer("torch", "pfl", data, "--evaluation"),
        "fedsweep": fedsweep(data, "--evaluation", "encoder=identity", *TEN),
    }
    found = compare(columns, bench.turns, WARM_UP, bench.say)
    for name, column in found.items():
        section.rows.append((name, f"{column.median():.2f}", f"{ratio(column, found['plain TensorFlow']):.2f}"))


PARTS = {part.__name__: part for part in (rounds, clients, models, encoders, widths, starting, sweeps, evaluation)}

# The environments of peers, and the packages in them whose versions a report names.
_SHOWN = {"pfl": ("torch", "pfl"), "flower": ("flwr", "ray"), "fedjax": ("fedjax", "jax")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=f"parts, separated by commas: {', '.join(PARTS)}; left out: all")
    parser.add_argument("--turns", type=int, default=4, help="measured turns, after those that warm up")
    parser.add_argument("--out", type=Path, help="the report; left out: benchmarks/results.md, and none with --only")
    arguments = parser.parse_args()
    named = PARTS if arguments.only is None else filter(None, arguments.only.split(","))
    parts = list(dict.fromkeys(named))
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"--only {', '.join(unknown)}: no such part; choose from {', '.join(PARTS)}")
    if not parts:
        parser.error(f"--only {arguments.only}: names no part; choose from {', '.join(PARTS)}")
    if arguments.turns < 1:
        parser.error(f"--turns {arguments.turns}: must be at least 1")
    out = arguments.out or (ROOT / "benchmarks" / "results.md" if arguments.only is None else None)
    if out:
        try:
            out.open("a").close()
        except OSError as error:
            parser.error(f"--out {out}: {error.strerror}; name a file in a folder that is there")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the columns, too
    shared = ROOT.parent / "shared" / "data"
    if shared.is_dir():
        os.environ.setdefault("FEDSWEEP_DATA", str(shared))
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory(prefix="fedsweep-bench") as folder:
        bench = Bench(Path(folder), arguments.turns, lambda line: console.print(line, highlight=False))
        head, missing = _head(), list(PARTS)
        for name in parts:
            PARTS[name](bench)
            bench.sections[-1].print(console)
            missing = [part for part in missing if part != name]
            if out:
                out.write_text(_report(head, missing, bench))  # a call that breaks off keeps what it found
    bench.goals().print(console)
    console.print(f"Written: {out}" if out else "Written: nothing; --out names a file")
    if absent := _absent_peers():
        console.print(absent)


def _absent_peers() -> str:
    absent = [name for name in _SHOWN if not is_made(name)]
    return f"Left out, with their targets: {', '.join(absent)} (make bench-peers makes them)" if absent else ""


def _report(head: str, missing: Sequence[str], bench: Bench) -> str:
    lines = [head, f"Not measured: {', '.join(missing)}\n"] if missing else [head]
    if absent := _absent_peers():
        lines.append(absent + "\n")
    return "\n".join([*lines, *(section.markdown() for section in (bench.goals(), *bench.sections))])


def _head() -> str:
    """The machine and the versions."""
    import importlib.metadata

    from fedsweep import environment

    versions = [f"{package} {importlib.metadata.version(package)}" for package in environment.PACKAGES]
    pinned = {path.stem: path for path in sorted((ROOT / "benchmarks" / "peers").glob("*.txt"))}
    for name, packages in _SHOWN.items():
        if is_made(name):
            lines = [line.strip().replace("==", " ") for line in pinned[name].read_text().splitlines()]
            versions += [line for line in lines if line.split(" ")[0] in packages]
    return (
        "# Benchmarks\n\n"
        f"`make bench`, {machine()}: compare ratios, which are medians within turns, and not seconds.\n\n"
        f"{', '.join(dict.fromkeys(versions))}\n"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
