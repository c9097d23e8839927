"""`python -m tests.crash`: tries every fault on real sweeps and prints what was lost, doubled, wrong or left behind."""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from . import faults, report
from .compare import Counts
from .fuzzing import fuzz
from .soak import soak
from .sweeps import Hung, Lab

_NOTES = 12  # of a try that are printed

_OWN_MOUNTS = "FEDSWEEP_CRASH_MOUNTS"  # set in the mount namespace; empty where there can be none
_MOUNTING = (faults.disk_full, faults.read_only, faults.temporary_full)
# The faults with their tries (of kills: sweeps that are killed several times). The longest come first.
_ALL = {
    "soak: many trials in one worker": (soak, 1),
    "fuzzing: overrides and files": (fuzz, 1),
    "four sweeps on one database": (faults.four_on_one_database, 1),
    "tracker's database locked for a minute": (faults.database_locked, 2),
    "tracker's server gone and back": (faults.server_away, 3),
    "two sweeps in one folder": (faults.two_in_one_folder, 2),
    "read-only output folder": (faults.read_only, 1),
    "/tmp and /dev/shm full": (faults.temporary_full, 1),
    "clock stepped back an hour": (faults.clock_back, 2),
    "disk full": (faults.disk_full, 4),
    "SIGKILL of the sweep": (faults.kill_sweep, 8),
    "SIGKILL of the whole group": (faults.kill_all, 7),
    "SIGKILL of a worker": (faults.kill_worker, 4),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--short", action="store_true", help="a short try of each")
    parser.add_argument("--only", metavar="TEXT", help="faults whose name contains this text, or one of several (a,b)")
    parser.add_argument("--times", type=float, default=1, help="how many times as many tries")
    parser.add_argument("--seconds", type=float, default=3600, help="no try begins later (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the moments (default: another one each time)")
    parser.add_argument("--lanes", type=int, default=2, help="tries at the same time (default: %(default)s)")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the table into this file, or these faults' rows"
    )
    arguments = parser.parse_args()
    _enter_own_mounts()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="fedsweep-crash-", dir="/var/tmp"))  # /tmp is full for some tries
    lab = Lab(folder)
    try:
        counts = _try_all(lab, arguments, seed, began)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        lab.end()
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    print(f"\n{report.as_markdown(report.rows(counts).values())}\n\nseed {seed}, {seconds:.0f} s")
    if arguments.write:
        report.write(arguments.write, counts, list(_ALL), seed, seconds)
    untried = [name for name, found in counts.items() if not found.tries and not found.skipped]
    for name in untried:
        print(f"{name}: was not tried")
    skipped = [name for name, found in counts.items() if found.skipped]
    for name in skipped:
        print(f"{name}: skipped, {counts[name].skipped}")
    return int(bool(untried or (skipped and not arguments.short)) or not all(found.clean for found in counts.values()))


def _enter_own_mounts() -> None:
    """Starts this program again where it may mount, and nobody else sees what it mounts."""
    if _OWN_MOUNTS in os.environ:
        return
    flags = ["--mount"] if os.getuid() == 0 else ["--mount", "--user", "--map-root-user"]
    possible = shutil.which("unshare") and subprocess.run(["unshare", *flags, "true"], capture_output=True)
    works = bool(possible and possible.returncode == 0)
    os.environ[_OWN_MOUNTS] = "yes" if works else ""
    if works:
        os.execvp("unshare", ["unshare", *flags, sys.executable, "-m", "tests.crash", *sys.argv[1:]])


def _try_all(lab: Lab, arguments: argparse.Namespace, seed: int, began: float) -> dict[str, Counts]:
    wanted = (arguments.only or "").lower().split(",")
    counts = {name: Counts() for name in _ALL if any(text in name.lower() for text in wanted)}
    tries = []
    for name in list(counts):
        fault, whole = _ALL[name]
        number = 1 if arguments.short else max(1, round(whole * arguments.times))
        if fault in _MOUNTING and not os.environ[_OWN_MOUNTS]:
            counts[name].skipped = "nothing can be mounted here (unshare)"
            number = 0
        tries += [(name, fault, k) for k in range(number)]
    lab.prepare()
    _say(began, f"undisturbed sweep done; {len(tries)} tries, seed {seed}")

    def attempt(name: str, fault: faults.Fault, k: int) -> None:
        if time.monotonic() - began > arguments.seconds:
            _say(began, f"{name} [{k}]: not tried, the time is up")
            return
        found = Counts(tries=1)
        try:
            found = fault(lab, random.Random(f"{seed} {name} {k}"), arguments.short)
        except Hung as error:
            found.note("wrong", f"hangs: {error}")
        except Exception:
            found.note("wrong", f"the suite itself: {traceback.format_exc()}")
        counts[name].add(found)
        _say(began, f"{name} [{k}]: {'clean' if found.clean else dict(found.found)} {found.skipped}")
        for line in found.notes[:_NOTES]:
            print(f"    {line}", flush=True)
        if len(found.notes) > _NOTES:
            print(f"    and {len(found.notes) - _NOTES} more", flush=True)

    lanes = concurrent.futures.ThreadPoolExecutor(arguments.lanes)
    try:
        for future in [lanes.submit(attempt, *one) for one in tries]:
            future.result()
    except BaseException:
        lanes.shutdown(wait=False, cancel_futures=True)
        lab.end()  # and with their processes the tries
        raise
    return counts


def _say(began: float, line: str) -> None:
    print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
