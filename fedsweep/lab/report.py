"""What the lab says: tables for people, lab.csv in long form, and the figure."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from fedsweep import files, shown
from fedsweep.errors import UserError
from fedsweep.lab.choices import Choice
from fedsweep.pareto.front import on_front

if TYPE_CHECKING:
    from fedsweep.lab.measure import Measured

FILES = ("lab.csv", "lab.png", "lab.pdf")
COLUMNS = (
    "encoder", "label", "overrides", "vectors", "elements", "clients", "repeats", "seed", "bits_per_element", "nmse",
    "nmse_interval", "bias", "bias_noise", "encode_ms", "decode_ms", "on_front",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One encoder on one kind of vectors."""

    choice: Choice
    vectors: str
    measured: Measured
    on_front: bool = False  # no other encoder has less error or fewer bits, and not more of the other


def marked(rows: Sequence[Row]) -> list[Row]:
    """The rows of one kind of vectors, with those on the front marked."""
    costs = np.array([(row.measured.bits, row.measured.nmse) for row in rows])
    best = on_front(np.nan_to_num(costs, nan=np.inf, posinf=np.inf))
    return [dataclasses.replace(row, on_front=bool(mark)) for row, mark in zip(rows, best, strict=True)]


def table(rows: Sequence[Row], title: str, repeats: int) -> Table:
    """The rows of one kind of vectors, by bits."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption="nmse: ||server's mean - mean x||^2 / (sum ||x||^2 / n), mean and 95 % interval over"
        f" {repeats} repeats. bias: ||average error|| / ||mean x||; about as large as noise, it is none."
        " ms: a client, one thread. *: no other has both fewer bits and less error.",
        caption_justify="left",
    )
    for column in ("", "encoder", "bits/element", "nmse", "+-", "bias", "noise", "encode ms", "decode ms"):
        made.add_column(column, justify="left" if column in ("", "encoder") else "right", no_wrap=True)
    for row in sorted(rows, key=lambda row: (row.measured.bits, row.measured.nmse)):
        m = row.measured
        errors = (_text(m.nmse), _text(m.interval, m.nmse), _text(m.bias), _text(m.noise, m.bias))
        times = (f"{value:.2f}" for value in (m.encode_ms, m.decode_ms))
        made.add_row("*" if row.on_front else "", shown.printable(row.choice.label), f"{m.bits:.4g}", *errors, *times)
    return made


def _text(value: float, whole: float = 0.0) -> str:
    """What is only in the last digits of `whole` is none."""
    if math.isnan(value):
        return ""
    return f"{0 if value < 1e-6 * whole else value:.3g}"


def prepare(folder: Path) -> None:
    """Makes the folder, and says early what would be wrong with it later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out {folder}: cannot be written")
    for path in (folder / name for name in FILES):
        if path.exists():
            raise UserError(f"{path}: is there already; choose another folder with --out")


def write(folder: Path, rows: Sequence[Row], clients: int, repeats: int, seed: int) -> None:
    """lab.csv and the figure, into a folder that `prepare` has seen."""
    from fedsweep.lab import figure

    content = (_csv(rows, clients, repeats, seed).encode(), *figure.draw(rows, ("png", "pdf")))
    for name, data in zip(FILES, content, strict=True):
        files.write_atomically(folder / name, data)


def _csv(rows: Sequence[Row], clients: int, repeats: int, seed: int) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        c, m = row.choice, row.measured
        numbers = (m.bits, m.nmse, m.interval, m.bias, m.noise, round(m.encode_ms, 4), round(m.decode_ms, 4))
        texts = (c.encoder, c.label, " ".join(c.overrides), row.vectors)
        writer.writerow(
            [*map(shown.text_cell, texts), m.elements, clients, repeats, seed]
            + ["" if math.isnan(number) else number for number in numbers]
            + [row.on_front]
        )
    return text.getvalue()
