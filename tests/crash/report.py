"""The table of what was tried, on the terminal and in docs/reliability.md."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedsweep.environment import cpu, git_commit

from .compare import KINDS, Counts

BEGIN, END = "<!-- begin: python -m tests.crash --write -->", "<!-- end -->"
_HEADER = ("fault", "tries", *KINDS)


def rows(counts: Mapping[str, Counts]) -> dict[str, str]:
    """A line of the table for each fault."""
    table = {}
    for name, found in counts.items():
        if found.skipped and not found.tries:
            cells = ["0", f"not tried: {found.skipped}", *[""] * (len(KINDS) - 1)]
        else:
            cells = [str(found.tries), *(str(found.found[kind]) for kind in KINDS)]
        table[name] = _line(name, *cells)
    return table


def as_markdown(lines: Iterable[str]) -> str:
    return "\n".join([_line(*_HEADER), _line(*["---"] * len(_HEADER)), *lines])


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def write(path: Path, counts: Mapping[str, Counts], order: Sequence[str], seed: int, seconds: float) -> None:
    """Puts the table between the markers of the file, with what it was measured on.

    Where these are some of the faults (`order`: all of them), the rows of the others stay, with what they were measured
    on.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: has no place for the table; put {BEGIN} and {END} there")
    machine = f"{cpu()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}"
    about = f"{datetime.date.today()}, commit {git_commit()}, seed {seed}, {seconds / 60:.0f} minutes, on {machine}."
    table, abouts = rows(counts), [about]
    if table.keys() != set(order):
        there = [line for line in inside.splitlines() if line]
        kept = {line.split(" | ")[0].removeprefix("| "): line for line in there if line.startswith("| ")}
        abouts = [line for line in there if not line.startswith("|")] + [f"{', '.join(table)}: {about}"]
        table = {name: {**kept, **table}[name] for name in order if name in kept or name in table}
    path.write_text(f"{before}{BEGIN}\n" + "\n\n".join([*abouts, as_markdown(table.values())]) + f"\n{END}{after}")
