"""The fuzz tests of tests/fuzz, as one row: as many cases as asked for, over all of them together."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

from .compare import Counts
from .sweeps import ROOT, Lab, Place, cleared

_CASES, _SHORT = 10_000, 100


def fuzz(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """10,000 cases of hypothesis over overrides and the bytes of every file format."""
    with cleared(lab.place("fuzz")) as place:
        return fuzz_folder(place, ROOT / "tests" / "fuzz", _SHORT if short else _CASES, draw.randrange(2**32))


def fuzz_folder(place: Place, folder: Path, cases: int, seed: int) -> Counts:
    """Each case that was tried is counted; each test that fails, no case at all, or another end is wrong."""
    running = place.command(
        *(sys.executable, "-m", "pytest", str(folder), "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("-o", "addopts=", "--hypothesis-show-statistics", f"--hypothesis-seed={seed}", "--timeout=1800"),
        FEDSWEEP_FUZZ_EXAMPLES=str(cases),
    )
    status, said = running.wait(1800), running.output()
    numbers = re.findall(r"(\d+) passing(?: examples?)?, (\d+) failing", said)
    counts = Counts(tries=sum(int(passing) + int(failing) for passing, failing in numbers))
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)$", said, re.MULTILINE)
    for line in failed:
        counts.note("wrong", f"--hypothesis-seed={seed}: {line[:200]}")
    if not failed and (status != 0 or not counts.tries):
        counts.note("wrong", f"pytest tries {counts.tries} cases and ends with {status}: {said[-300:]}")
    return counts
