"""The fuzz tests of tests/fuzz, as one row: as many cases as asked for, over all of them together."""

from __future__ import annotations

import random
import re
import sys

from .compare import Counts
from .sweeps import ROOT, Lab, cleared

CASES = 10_000


def fuzz(lab: Lab, draw: random.Random, short: bool) -> Counts:
    """10,000 cases of hypothesis over overrides and the bytes of every file format."""
    counts = Counts()
    pytest = (
        sys.executable,
        "-m",
        "pytest",
        str(ROOT / "tests" / "fuzz"),
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    )
    with cleared(lab.place("fuzz")) as place:
        listed = place.command(*pytest, "--collect-only")
        listed.wait()
        tests = len(re.findall(r"::", listed.output()))
        if not tests:
            return Counts(skipped="tests/fuzz has no tests")
        each = -(-CASES // tests)
        seed = str(draw.randrange(2**32))
        running = place.command(
            *pytest, "--hypothesis-show-statistics", f"--hypothesis-seed={seed}", "--timeout=1800",
            FEDSWEEP_FUZZ_EXAMPLES=str(each),
        )  # fmt: skip
        status, said = running.wait(1800), running.output()
        numbers = re.findall(r"(\d+) passing examples?, (\d+) failing examples?", said)
        counts.tries = sum(int(passing) + int(failing) for passing, failing in numbers)
        failed = re.findall(r"^FAILED (.*)$", said, re.MULTILINE)
        for line in failed:
            counts.note("wrong", f"--hypothesis-seed={seed}: {line[:200]}")
        if status != 0 and not failed:
            counts.note("wrong", f"pytest ends with {status}: {said[-300:]}")
    return counts
