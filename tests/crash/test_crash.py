"""The short form of `make crash`: a sweep that is killed, and one whose disk is full."""

from __future__ import annotations

import subprocess
import sys

from .sweeps import ROOT


def test_a_few_faults_leave_nothing_lost_doubled_wrong_or_behind():
    command = [sys.executable, "-m", "tests.crash", "--short", "--seed", "17"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
