"""Whatever is behind standard output and error, what a command does is done, and its status is that of its work."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from fedsweep import cli
from fedsweep.errors import NotWritten

# Prints more than any buffer holds, by every road that the commands use, between two writes into a file of its own.
SCRIPT = """
import sys
from pathlib import Path
from fedsweep import cli
with cli.one_line_errors():
    with open("mine", "w") as mine:
        from rich.console import Console
        for _ in range(30):
            print("x" * 9999)
            Console().print("[bold]rich")
            print("error", file=sys.stderr)
        sys.stdout.write("left for the end")
        mine.write("whole")
    Path("done").touch()
"""
SAID = "fedsweep: standard output cannot be written"


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ("", False),
        (">/dev/full", True),
        (">&-", False),
        ("| head -c 1 >/dev/null", True),
        ("2>/dev/full", False),
        ("2>&-", False),
        (">&- 2>&-", False),
        (">/dev/full 2>/dev/full", False),
        ("<&- >&- 2>&-", False),
    ],
)
def test_broken_streams_end_nothing_and_are_said_once(tmp_path, streams, said):
    """(Broken once: without `streams.guard`, rc was 120 or 1, and a closed stdout put prints into "mine".)"""
    command = f'set -o pipefail; "{sys.executable}" -c "$0" {streams}'
    done = subprocess.run(["bash", "-c", command, SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "mine").read_text()) == (0, "whole"), done.stderr
    assert (tmp_path / "done").exists()
    assert done.stderr.count(SAID) == said and "Traceback" not in done.stderr and "ignored" not in done.stderr


@pytest.mark.parametrize("streams", [">/dev/full", ">&-", "| true"])
@pytest.mark.parametrize(
    "arguments",
    ["fedsweep --cfg job", "fedsweep.plan --help", "fedsweep.clients --help", "fedsweep.lab --help",
     "fedsweep.pareto --help"],
)  # fmt: skip
def test_all_commands_have_it(tmp_path, streams, arguments):
    command = f'set -o pipefail; "{sys.executable}" -m {arguments} {streams}'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stderr.splitlines()) <= 1, done.stderr
    assert not done.stderr or done.stderr.startswith(SAID)


@pytest.mark.parametrize(
    ("error", "arguments", "says"),
    [
        (NotWritten(errno.ENOSPC, "No space left on device", "out/1/rounds.csv"), ["-m"],
         "out/1/rounds.csv: No space left on device; free some space on its disk; then sweep.resume=latest goes on"),
        (NotWritten(errno.EFBIG, "File too large", "out/rounds.csv"), [],
         "out/rounds.csv: File too large; raise the limit on the size of a file (ulimit -f)"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), ["hydra.run.dir=/a/b"],
         "/a/b: Read-only file system; its disk is mounted to be read only"),
        (OSError(errno.EACCES, "Permission denied", "/a"), ["hydra.sweep.dir=/a/b"],
         "/a: Permission denied; hydra.run.dir or hydra.sweep.dir names the output folder"),
        (OSError(errno.EACCES, "Permission denied", "/data/x.npz"), ["hydra.run.dir=/a/b"],
         "/data/x.npz: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), [],
         "No space left on device; free some space on its disk"),
        (OSError("odd"), [], "odd"),
    ],
)  # fmt: skip
def test_an_error_of_a_file_is_one_line_and_blames_the_output_folder_for_its_own_alone(
    error, arguments, says, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(Path("fedsweep")), *arguments])
    with pytest.raises(SystemExit) as ended, cli.one_line_errors():
        raise error
    assert ended.value.code == 1 and capsys.readouterr().err == f"fedsweep: {says}\n"
