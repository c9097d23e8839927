"""The table that ends a run or a sweep in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from fedsweep.units import format_bits


@dataclass(frozen=True)
class Row:
    """A run: what tells it from the others, and its result.json."""

    labels: dict[str, str]
    result: dict


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
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _bits(result: dict, direction: str) -> tuple[str, str]:
    bits = result.get(f"{direction}_bits")
    return ("" if bits is None else format_bits(bits)), _number(result.get(f"{direction}_ratio"), ".2f")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
