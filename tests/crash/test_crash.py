"""The short form of `make crash`: short tries of some faults."""

from __future__ import annotations

import subprocess
import sys

import pytest
from variations import some

from . import report
from .compare import Counts
from .sweeps import ROOT


@pytest.mark.parametrize("fault", some(["SIGKILL of the sweep", "disk full", "fuzzing"], ["SIGKILL of the sweep"]))
def test_a_fault_leaves_nothing_lost_doubled_wrong_or_behind(fault):
    command = [sys.executable, "-m", "tests.crash", "--short", "--only", fault, "--seed", "17"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_some_faults_that_are_tried_again_leave_the_others_rows(tmp_path):
    path, order = tmp_path / "page.md", ["one", "two", "three"]
    path.write_text(f"before\n{report.BEGIN}\n{report.END}\nafter\n")
    whole = {name: Counts(tries=3) for name in order}
    whole["two"].note("lost", "a row")
    report.write(path, whole, order, 1, 60)
    report.write(path, {"two": Counts(tries=5)}, order, 2, 60)
    lines = path.read_text().splitlines()
    assert [line for line in lines if line.startswith("| t")] == [
        "| two | 5 | 0 | 0 | 0 | 0 |",
        "| three | 3 | 0 | 0 | 0 | 0 |",
    ]
    assert "| one | 3 | 0 | 0 | 0 | 0 |" in lines and (lines[0], lines[-1]) == ("before", "after")
    told = [line for line in lines if "seed" in line]
    assert len(told) == 2 and "seed 1," in told[0] and told[1].startswith("two: ") and "seed 2," in told[1]
