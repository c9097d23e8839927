"""What each client of a data set holds, as a picture and a table, without training.

  python -m fedsweep.clients dataset=digits dataset.partition=shards --out clients

Overrides are those of `python -m fedsweep` (--help there). clients.csv has a row for every client; of a large data set
the table on the screen and the picture of labels show the first ones only.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
import numpy as np
import pandas as pd
import rich.progress
from rich.console import Console
from rich.table import Table

from fedsweep import cli, environment, schema, shown
from fedsweep.errors import UserError
from fedsweep.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedsweep.datasets import FederatedDataset

_ROWS = 20  # of the table on the screen
_COLUMNS = 60  # clients in the picture
FILES = ("clients.csv", "clients.png", "clients.pdf")


@dataclass(frozen=True)
class Held:
    """What clients hold."""

    table: pd.DataFrame  # a row a client: client, examples and, of images, classes, largest_share
    labels: np.ndarray | None  # int [clients, classes] of the first clients; None of text


def main(arguments: list[str] | None = None) -> None:
    """Shows what the overrides in `arguments` (default: the command line's) give; with --out, writes it, too."""
    parser = argparse.ArgumentParser(
        prog="python -m fedsweep.clients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="such as dataset=digits dataset.alpha=0.1 seed=3")
    parser.add_argument("--out", type=Path, help=f"folder for {', '.join(FILES)}")
    parser.add_argument("--most", type=int, default=1000, metavar="N", help="read the labels of N clients (1000)")
    with cli.one_line_errors():
        options = parser.parse_args(arguments)
        if options.most < 1:
            raise UserError(f"--most {options.most}: must be at least 1")
        with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
            # a configuration needs a model that fits, whatever is shown here
            text = any(f"dataset={name}" in options.overrides for name in schema.TEXT_DATASETS)
            model = ["clients_per_round=1", *(["model=char_lstm"] if text else [])]
            config = schema.check(hydra.compose("config", [*model, *options.overrides]))
        environment.configure(config.runtime)  # before TFF's loaders import TensorFlow
        from fedsweep import datasets

        dataset = datasets.load(config.dataset, config.seed)
        held = count(dataset, options.most)
        console = Console(width=None if sys.stdout.isatty() else 100, emoji=False, markup=False)
        console.print(dataset.summary(), highlight=False)
        console.print(_shown(held))
        if options.out:
            try:
                write(dataset, held, options.out)
            except OSError as error:
                raise UserError(f"--out {options.out}: cannot be written ({error.strerror})") from error
            print(f"Files: {', '.join(str(options.out / name) for name in FILES)}")


def count(dataset: FederatedDataset, most: int) -> Held:
    """Examples of every client; labels of the first `most`, which are read for it, with a progress bar."""
    table = pd.DataFrame({"client": list(map(str, dataset.client_ids)), "examples": dataset.sizes})
    if dataset.spec.text:
        return Held(table, None)
    read = range(min(most, len(table)))
    counts = np.zeros([len(read), dataset.spec.classes], np.int64)
    for client in rich.progress.track(read, "reading clients", transient=True, disable=not sys.stderr.isatty()):
        counts[client] = np.bincount(dataset.stored(client).labels, minlength=dataset.spec.classes)
    table.loc[read, "classes"] = np.count_nonzero(counts, axis=1)
    table.loc[read, "largest_share"] = counts.max(1) / counts.sum(1)  # of the most frequent class
    table["classes"] = table.classes.astype("Int64")
    for label in range(dataset.spec.classes):
        table.loc[read, f"label_{label}"] = counts[:, label]
        table[f"label_{label}"] = table[f"label_{label}"].astype("Int64")
    return Held(table, counts)


def _shown(held: Held) -> Table:
    """The first clients, then quartiles over all."""
    columns = [name for name in held.table if not name.startswith("label_")]
    table = Table()
    for column in columns:
        table.add_column(column, justify="left" if column == "client" else "right")

    def add(name: str, values: pd.Series, end_section: bool = False) -> None:
        cells = ["" if pd.isna(value) else f"{value:.2f}".removesuffix(".00") for value in values]
        table.add_row(name, *cells, end_section=end_section)

    first = held.table.head(_ROWS)
    for k, row in enumerate(first[columns].itertuples(index=False), 1):
        add(shown.printable(row[0]), pd.Series(row[1:]), end_section=k == len(first))
    numbers = held.table[columns[1:]].astype(float)
    for name, at in (("minimum", 0), ("median", 0.5), ("maximum", 1)):
        add(f"{name} of {len(held.table)}", numbers.quantile(at))
    return table


def write(dataset: FederatedDataset, held: Held, folder: Path) -> None:
    """clients.csv, and the picture as PNG and PDF, into `folder`."""
    from matplotlib import rc_context

    from fedsweep.pareto import style

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILES[0], shown.as_csv(held.table))
    with rc_context(style.settings(style.VENUES["wide"])):
        figure = draw(dataset, held)
        for name in FILES[1:]:
            write_atomically(folder / name, style.saved(figure, name.rpartition(".")[2]))


def draw(dataset: FederatedDataset, held: Held) -> Figure:
    """Which labels the first clients hold (a disc's area is the number of examples), and how many examples all hold."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from fedsweep.pareto.style import COLOURS

    figure = Figure(figsize=(8, 6 if held.labels is not None else 3), layout="constrained")
    if held.labels is not None:
        labels, sizes = figure.subplots(2, 1, height_ratios=[2, 1])
        counts = held.labels[:_COLUMNS]
        clients, classes = np.nonzero(counts)
        areas = counts[clients, classes]
        labels.scatter(
            clients, classes, s=min(120, (400 / len(counts)) ** 2) * areas / areas.max(), color=COLOURS[0], linewidths=0
        )
        labels.set(xlabel="client", ylabel="label", xlim=(-1, len(counts)), ylim=(-1, dataset.spec.classes))
        labels.xaxis.set_major_locator(MaxNLocator(integer=True))
        labels.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        of = "" if len(counts) == len(held.table) else f", the first {len(counts)} of {len(held.table):,} clients"
        labels.set_title(f"{dataset.name}: labels by client (largest disc: {areas.max():,} examples){of}")
        labels.set_axisbelow(True)
    else:
        sizes = figure.subplots()
    sizes.hist(held.table.examples, bins=min(40, max(5, held.table.examples.nunique())), color=COLOURS[0])
    sizes.set(xlabel="examples", ylabel="clients")
    sizes.yaxis.set_major_locator(MaxNLocator(integer=True))
    sizes.set_title(f"{dataset.name}: examples of {len(held.table):,} clients")
    return figure


if __name__ == "__main__":
    main()
