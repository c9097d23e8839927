"""The table of what was tried, on the terminal and in docs/reliability.md."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedsweep.environment import cpu, git_commit

from .compare import KINDS, Counts

BEGIN, END = "<!-- begin: python -m tests.crash --write -->", "<!-- end -->"
_HEADER = ("fault", "tries", *KINDS)


def rows(counts: Mapping[str, Counts]) -> list[Sequence[str]]:
    table = []
    for name, found in counts.items():
        if found.skipped and not found.tries:
            table.append((name, "0", *[f"not tried: {found.skipped}"], *[""] * (len(KINDS) - 1)))
        else:
            table.append((name, str(found.tries), *(str(found.found[kind]) for kind in KINDS)))
    return table


def as_markdown(counts: Mapping[str, Counts]) -> str:
    lines = [_HEADER, ["---"] * len(_HEADER), *rows(counts)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(path: Path, counts: Mapping[str, Counts], seed: int, seconds: float) -> None:
    """Puts the table between the markers of the file, with what it was measured on."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: has no place for the table; put {BEGIN} and {END} there")
    machine = f"{cpu()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}"
    about = f"{datetime.date.today()}, commit {git_commit()}, seed {seed}, {seconds / 60:.0f} minutes, on {machine}."
    path.write_text(f"{before}{BEGIN}\n{about}\n\n{as_markdown(counts)}\n{END}{after}")
